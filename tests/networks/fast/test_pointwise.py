"""1x1 convolutions in parts against plain ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rome_lightning.acceleration import warp_status
from rome_lightning.networks.fast import pointwise
from rome_lightning.networks.fast.pointwise import AddedPointwise, NormalizedPointwise

ROUNDING = 1e-5
"""Of sums of 32 products up to 11: 2^-24 of each partial sum, if random: root of 32 x 6e-8 x 11 = 4e-6."""


@pytest.fixture(params=["large", "small"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether features count as large and are processed in parts of three rows."""
    if request.param == "large" and warp_status() != "ok":
        pytest.skip(warp_status())
    monkeypatch.setattr(pointwise, "_LARGE", 0 if request.param == "large" else 2**40)
    monkeypatch.setattr(pointwise, "_AT_ONCE", 3 * 37 * 32)


def features_of(channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, 17, 37, generator=generator) + 3
    return features.contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("_size", "torch_threads")
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_normalization_and_convolution(bias):
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(4, 32), nn.Conv2d(32, 9, 1, bias=bias)
    norm.weight.normal_()
    norm.bias.normal_()
    features = features_of(32)
    kept = features.clone()
    found = NormalizedPointwise(norm, conv)(features)
    expected = conv.double()(F.relu(norm.double()(features.double())))
    torch.testing.assert_close(found.double(), expected, atol=ROUNDING, rtol=0)
    assert torch.equal(features, kept)


@pytest.mark.usefixtures("_size", "torch_threads")
@torch.no_grad()
def test_convolution_is_added_in_place():
    conv = nn.Conv2d(16, 48, 1, bias=False)
    features, total = features_of(16), features_of(48, seed=1)
    expected = total.double() + F.conv2d(features.double(), conv.weight.double())
    found = AddedPointwise(conv)(features, total)
    torch.testing.assert_close(found.double(), expected, atol=ROUNDING, rtol=0)
    assert found.data_ptr() == total.data_ptr()


def test_an_added_convolution_has_no_bias():
    with pytest.raises(ValueError, match="must not have a bias"):
        AddedPointwise(nn.Conv2d(16, 16, 1))
