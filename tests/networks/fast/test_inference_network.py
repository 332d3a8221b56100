"""Networks rewritten for inference give the same results."""

import copy
import time

import pytest
import torch
from torch.nn import functional as F

from rome_lightning.acceleration import warp_status
from rome_lightning.networks import CompactUNet, TextureEncoder, UNet
from rome_lightning.networks.fast import InferenceNetwork, choice, inference, pointwise
from rome_lightning.networks.fast.winograd import WinogradConv2d

SIZE = 32


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "released": UNet(47, 4, base_width=64, num_levels=3),
        "paper": UNet(47, 4, base_width=64, num_levels=3, downsampling="average", upsampling="bilinear"),
        "one level": UNet(5, 3, base_width=32, num_levels=1),
        "encoder": TextureEncoder(base_width=128, num_levels=2),
        "compact": CompactUNet(20, 4, base_width=32, num_levels=3),
        "compact of odd widths": CompactUNet(20, 4, base_width=20, num_levels=3),
        "compact, paper": CompactUNet(9, 4, 16, 3, downsampling="average", upsampling="bilinear"),
        "compact, strided": CompactUNet(9, 4, 16, 3, downsampling="stride", activation="relu"),
    }


@pytest.mark.parametrize("large", [2**25, 0])
@pytest.mark.parametrize("name", networks())
def test_outputs_are_those_of_the_network(name, large, monkeypatch):
    """Including the code for features of 32 MiB and more."""
    monkeypatch.setattr(pointwise, "_LARGE", large)
    network = networks()[name]
    inputs = torch.rand(2, _channels(network), SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    kept = inputs.clone()
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(inputs.double())
        found = InferenceNetwork(network)(inputs)
    assert torch.equal(inputs, kept)
    # The encoder amplifies rounding a thousandfold, whatever the order of its sums.
    limit = 2e-2 if name == "encoder" else 1e-4
    assert (found - exact).abs().max() < limit * exact.std()


@pytest.mark.parametrize("fold", [2, 4])
def test_blocks_of_pixels_need_not_be_folded(fold):
    torch.manual_seed(0)
    network = CompactUNet(3 * fold**2, 4, base_width=16, num_levels=2)
    inputs = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(F.pixel_unshuffle(inputs.double(), fold))
    found = InferenceNetwork(network, fold)(inputs)
    assert (found - exact).abs().max() < 1e-4 * exact.std()
    with pytest.raises(ValueError, match=f"must be divisible by {2 * fold}"):
        InferenceNetwork(network, fold)(inputs[..., : SIZE - 2])


@pytest.mark.parametrize("slow", ["direct", "minimal"])
def test_the_faster_way_is_taken_for_each_size(slow, monkeypatch):
    if warp_status() != "ok":
        pytest.skip(warp_status())
    monkeypatch.setattr(choice, "_found", {})
    conv = torch.nn.Conv2d(32, 32, 3, padding=1)
    chosen = choice.ChosenConv2d(conv, WinogradConv2d(conv))
    calls = {"direct": 0, "minimal": 0}
    for name in calls:
        way = getattr(chosen, name)

        def run(*given, name=name, forward=way.forward):
            calls[name] += 1
            time.sleep(0.02 if name == slow else 0)
            return forward(*given)

        monkeypatch.setattr(way, "forward", run)
    image = torch.rand(1, 32, 8, 8)
    with torch.no_grad():
        expected = F.conv2d(image.double(), conv.weight.double(), conv.bias.double(), padding=1)
        torch.testing.assert_close(chosen(image), expected.float(), atol=1e-5, rtol=0)
        measured = calls.copy()
        torch.testing.assert_close(
            chosen(image, torch.ones_like(image)), expected.float() + 1, atol=1e-5, rtol=0
        )
        fast = "minimal" if slow == "direct" else "direct"
        assert calls == measured | {fast: measured[fast] + 1}
        # Another size is measured anew.
        chosen(torch.rand(1, 32, 16, 8))
        assert calls[slow] > measured[slow]


def test_the_original_stays_as_it_was():
    network = networks()["released"].train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fast = InferenceNetwork(network)
    inputs = torch.rand(1, 47, SIZE, SIZE)
    output = fast(inputs)
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    network(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training


def test_sizes_that_do_not_halve_are_refused():
    network = InferenceNetwork(networks()["compact"])
    with pytest.raises(ValueError, match="must be divisible by 4, got 30x32"):
        network(torch.rand(1, 20, 30, 32))


@pytest.mark.parametrize(("num_threads", "num_sharing", "num_fast"), [(4, 4, 11), (4, 1, 6), (64, 1, 0)])
def test_wide_convolutions_are_the_fast_ones(num_threads, num_sharing, num_fast, monkeypatch):
    """Threads share the products but not the transforms, so more threads need more channels."""
    if warp_status() != "ok":
        pytest.skip(warp_status())
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    monkeypatch.setattr(inference, "num_threads", lambda: num_sharing)
    kinds = [type(module) for module in InferenceNetwork(networks()["released"]).modules()]
    # Five in the encoder and three in each of two blocks of the decoder, whose joins count twice. The first,
    # of 47 channels, and the last, which is 1x1, are always left as they are.
    assert kinds.count(WinogradConv2d) == num_fast


def _channels(network: torch.nn.Module) -> int:
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    return first.in_channels
