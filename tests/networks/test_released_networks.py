import numpy as np
import pytest
import torch
from torch import nn

from rome_lightning.networks import (
    OffsetMLP,
    PatchDiscriminator,
    TextureEncoder,
    UNet,
    WeightStandardizedConv2d,
    fold_weight_standardization,
)
from rome_lightning.networks.discriminator import SpectralNormConv2d


def test_standardized_convolution_against_numpy() -> None:
    torch.manual_seed(0)
    conv = WeightStandardizedConv2d(3, 4, 3, padding=1).double()
    inputs = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    weight = conv.weight.detach().numpy()
    filters = np.stack([(w - w.mean()) / (w.std(ddof=1) + 1e-5) for w in weight])
    padded = np.pad(inputs.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.empty((2, 4, 5, 6))
    for y in range(5):
        for x in range(6):
            patch = padded[:, None, :, y : y + 3, x : x + 3]
            expected[:, :, y, x] = (patch * filters).sum((2, 3, 4))
    expected += conv.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(conv(inputs).detach().numpy(), expected, atol=1e-10)


def test_fold_keeps_outputs_and_leaves_the_original_alone() -> None:
    torch.manual_seed(0)
    network = TextureEncoder(base_width=16, num_levels=2).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = torch.rand(1, 4, 16, 16)
    folded = fold_weight_standardization(network)
    assert not any(isinstance(module, WeightStandardizedConv2d) for module in folded.modules())
    assert not folded.training
    torch.testing.assert_close(folded(image), network(image), rtol=0, atol=1e-5)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    single = fold_weight_standardization(WeightStandardizedConv2d(2, 3, 1))
    assert type(single) is nn.Conv2d


@pytest.mark.parametrize(
    "network",
    [
        lambda: TextureEncoder(base_width=8, num_levels=2),
        lambda: UNet(4, 8, base_width=8, num_levels=3),
        lambda: UNet(4, 8, base_width=8, num_levels=1),
    ],
)
def test_width_and_depth_are_free(network: object) -> None:
    torch.manual_seed(0)
    model = network()  # type: ignore[operator]
    output = model(torch.randn(2, 4, 12, 8))
    assert output.shape == (2, 8, 12, 8)
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_mlp_treats_every_row_alone() -> None:
    torch.manual_seed(0)
    network = OffsetMLP(5, 1, width=8)
    rows = torch.randn(2, 7, 5)
    torch.testing.assert_close(network(rows)[1, 3], network(rows[1, 3]))


def test_spectral_norm_against_the_singular_value() -> None:
    torch.manual_seed(0)
    conv = SpectralNormConv2d(3, 5, 3, bias=False)
    with torch.no_grad():
        conv.weight.mul_(7.0)
    image = torch.randn(1, 3, 6, 6)
    conv.train()
    for _ in range(50):
        conv(image)
    conv.eval()
    largest = torch.linalg.svdvals(conv.weight.detach().flatten(1))[0]
    expected = nn.functional.conv2d(image, conv.weight / largest)
    torch.testing.assert_close(conv(image), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(conv(image), conv(image))


def test_spectral_norm_gradient_matches_torch() -> None:
    torch.manual_seed(0)
    ours = SpectralNormConv2d(2, 4, 3, bias=False).double()
    reference = nn.Conv2d(2, 4, 3, bias=False).double()
    reference.load_state_dict({"weight": ours.weight.detach()})
    nn.utils.parametrizations.spectral_norm(reference, n_power_iterations=200)
    image = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    for _ in range(200):
        ours(image)
    ours(image).square().sum().backward()
    reference(image).square().sum().backward()
    expected = reference.parametrizations.weight.original.grad  # type: ignore[union-attr, index]
    torch.testing.assert_close(ours.weight.grad, expected, rtol=1e-6, atol=1e-9)


def test_two_forwards_before_one_backward() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(base_width=4, num_blocks=2)
    real, fake = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    (network(real)[0].mean() - network(fake)[0].mean()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_spectral_norm_state_survives_and_reads_the_usual_names() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(base_width=4, num_blocks=2)
    image = torch.rand(1, 3, 16, 16)
    network(image)
    state = network.state_dict()
    renamed = {
        key.removesuffix("weight") + "weight_orig" if f"{key}_u" in state else key: value
        for key, value in state.items()
    }
    assert sum(key.endswith("weight_orig") for key in renamed) == 3
    expected = network.eval()(image)[0]
    for saved in (state, renamed):
        other = PatchDiscriminator(base_width=4, num_blocks=2)
        other.load_state_dict(saved, strict=True)
        assert torch.equal(other.eval()(image)[0], expected)


def test_discriminator_shapes() -> None:
    scores, features = PatchDiscriminator(base_width=4)(torch.rand(2, 3, 64, 64))
    assert scores.shape == (2, 1, 8, 8)
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (4, 32, 32),
        (8, 16, 16),
        (16, 8, 8),
        (32, 8, 8),
    ]


def test_errors() -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        TextureEncoder(base_width=8)(torch.zeros(1, 4, 20, 16))
    with pytest.raises(ValueError, match="divisible by 8"):
        UNet(1, 1, base_width=8)(torch.zeros(1, 1, 16, 20))
    with pytest.raises(ValueError, match="multiples of 32"):
        UNet(1, 1, base_width=48)
    with pytest.raises(ValueError, match="base_width must be even"):
        UNet(1, 1, base_width=7)
    with pytest.raises(ValueError, match="divisible by 4"):
        TextureEncoder(base_width=6)
    with pytest.raises(ValueError, match="num_blocks"):
        PatchDiscriminator(num_blocks=0)
