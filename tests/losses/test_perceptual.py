import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rome_lightning.losses import PerceptualLoss
from rome_lightning.losses.perceptual import PAPER_LAYERS, VGGFeatures
from rome_lightning.pretrained.frozen import FrozenNetwork

CONVS = (2, 2, 4, 4, 4)


def narrow_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "preprocess.weight": torch.randn(3, 3, 1, 1, generator=generator),
        "preprocess.bias": torch.randn(3, generator=generator),
    }
    previous = 3
    for block, count in enumerate(CONVS):
        for index in range(count):
            width = 4 + block
            name = f"conv{block + 1}_{index + 1}"
            weights[f"{name}.weight"] = torch.randn(width, previous, 3, 3, generator=generator) * 0.3
            weights[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1
            previous = width
    return weights


def reference_network(weights: dict[str, torch.Tensor]) -> nn.ModuleDict:
    """The same network as a sequence of torch's layers, keyed by the names of its ReLUs."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    layers[0].load_state_dict({k: weights[f"preprocess.{k}"] for k in ("weight", "bias")})
    ends = {}
    for block, count in enumerate(CONVS):
        if block:
            layers.append(nn.MaxPool2d(2))
        for index in range(count):
            name = f"conv{block + 1}_{index + 1}"
            weight = weights[f"{name}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})
            layers += [conv, nn.ReLU()]
            ends[name] = len(layers)
    return nn.ModuleDict({name: nn.Sequential(*layers[:end]) for name, end in ends.items()})


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_against_a_network_of_torch_layers() -> None:
    weights = narrow_weights()
    network = reference_network(weights)
    a, b = images(0), images(1)
    expected = sum(w * F.l1_loss(network[name](a), network[name](b)) for name, w in PAPER_LAYERS.items())
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(PerceptualLoss.vgg19(weights)(a, b), expected.detach())


def test_presets_select_their_layers() -> None:
    assert VGGFeatures(narrow_weights(), ["conv3_3", "conv1_2"]).layers == ["conv1_2", "conv3_3"]
    loss = PerceptualLoss.vgg16_shallow(narrow_weights())
    assert [f.shape[1] for f in loss.features(images())] == [4, 5, 6]
    assert loss(images(), images()) == 0
    # Layers after the last requested one are dropped.
    assert not any("conv4" in name for name in loss.features.network.state_dict())


def test_gradient_reaches_the_prediction_only() -> None:
    predicted, target = images(0).requires_grad_(), images(1).requires_grad_()
    PerceptualLoss.vgg19(narrow_weights())(predicted, target).backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().max() > 0
    assert target.grad is None


def test_the_network_stays_out_of_training() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(2, 2)
            self.critic = PerceptualLoss.vgg19(narrow_weights())

    model = Model()
    assert sorted(model.state_dict()) == ["own.bias", "own.weight"]
    assert len(list(model.parameters())) == 2
    model.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    model.train()
    assert not model.critic.features.network.training
    model.requires_grad_(True)
    assert not any(p.requires_grad for p in model.critic.features.network.parameters())


def test_frozen_network_follows_device_and_precision() -> None:
    frozen = FrozenNetwork(nn.BatchNorm2d(2))
    wrapper = nn.Sequential(frozen).double()
    assert frozen.network.weight.dtype == torch.float64
    wrapper.to("meta")
    assert frozen.network.running_mean.device.type == "meta"
    clone = copy.deepcopy(FrozenNetwork(nn.Linear(1, 1)))
    assert isinstance(clone.network, nn.Linear)


def test_unknown_layer() -> None:
    with pytest.raises(ValueError, match=r"must be among conv1_1, .*got \['conv9_9'\]"):
        PerceptualLoss(narrow_weights(), {"conv9_9": 1.0})
