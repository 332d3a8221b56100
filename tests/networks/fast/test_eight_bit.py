"""Convolutions of bytes, against the same sums in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.networks.fast.eight_bit import (
    ByteConv2d,
    Bytes,
    ByteSum,
    PackedConv2d,
    has_byte_products,
    to_bytes,
    with_leading_zeros,
)

pytestmark = pytest.mark.skipif(
    not has_byte_products(), reason="this processor does not multiply bytes (VNNI)"
)


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def image(channels: int, side: int = 12, seed: int = 0) -> Tensor:
    return random(1, channels, side, side, seed=seed).contiguous(memory_format=torch.channels_last)


def values_of(rounded: Bytes) -> Tensor:
    return rounded.scale * (rounded.values.double() - rounded.zero)


def rounded_filters(weight: Tensor) -> Tensor:
    scale = weight.double().abs().amax((1, 2, 3), keepdim=True) / 127
    return (weight / scale).round() * scale


@pytest.mark.parametrize("shift", [-0.5, 0.0, 4.0])
def test_bytes_are_within_half_a_step_and_keep_zero(shift: float) -> None:
    original = image(16) + shift
    original[0, 0, 0, 0] = 0
    rounded = to_bytes(original)
    assert (values_of(rounded) - original).abs().max() <= 0.501 * rounded.scale
    assert int(rounded.values[0, 0, 0, 0]) == rounded.zero
    assert float(to_bytes(torch.zeros_like(original)).values.max()) == 0


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize(
    ("groups", "side", "stride", "padding"), [(1, 1, 1, 0), (1, 3, 1, 1), (1, 5, 2, 2), (32, 3, 1, 1)]
)
def test_sums_are_exact(groups: int, side: int, stride: int, padding: int, shift: float) -> None:
    picture = image(32) + shift
    weight, bias = random(48 if groups == 1 else 32, 32 // groups, side, side, seed=1), random(48, seed=2)
    bias = bias[: len(weight)]
    wanted = F.conv2d(
        values_of(to_bytes(picture)), rounded_filters(weight), bias.double(), stride, padding, groups=groups
    )
    result = ByteConv2d(weight, bias, stride, padding)(picture)
    torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-4)
    relu = ByteConv2d(weight, bias, stride, padding, relu=True)(picture)
    torch.testing.assert_close(relu.double(), wanted.relu(), rtol=1e-5, atol=1e-4)


def test_a_known_range_gives_bytes_that_end_at_the_peak() -> None:
    picture, weight, bias = image(32), random(64, 32, 1, 1, seed=1), random(64, seed=2)
    wanted = F.conv2d(values_of(to_bytes(picture)), rounded_filters(weight), bias.double())
    result = ByteConv2d(weight, bias, relu=True, peak=8.0)(picture)
    assert isinstance(result, Bytes)
    assert wanted.max() > 9
    assert (values_of(result) - wanted.clamp(0, 8)).abs().max() <= 0.51 * 8 / 255
    with pytest.raises(ValueError, match="ReLU"):
        ByteConv2d(weight, bias, peak=8.0)


def test_images_side_by_side() -> None:
    pictures = [image(channels, seed=channels) for channels in (32, 3, 16)]
    weight, bias = random(32, 51, 3, 3, seed=1), random(32, seed=2)
    wanted = F.conv2d(torch.cat(pictures, 1), weight, bias, padding=1)
    result = ByteSum(weight, bias, (32, 3, 16), padding=1)(*pictures)
    error = (result - wanted).abs()
    # A step of 8 bits is a 255th of the range; errors of 459 products mostly cancel.
    assert error.max() < 0.015 * wanted.abs().max()
    assert error.mean() > 0


@pytest.mark.parametrize("most", [None, 2.0, float("inf")])
def test_packed_filters_change_nothing(most: float | None) -> None:
    picture, weight, bias = image(16), random(24, 16, 3, 3, seed=1), random(24, seed=2)
    wanted = F.conv2d(picture, weight, bias, 2, 1)
    if most is not None:
        wanted = wanted.clamp(0, most)
    torch.testing.assert_close(PackedConv2d(weight, bias, 2, 1, most)(picture), wanted, rtol=1e-4, atol=1e-4)


def test_leading_zeros_start_a_filter_at_the_first_pixel() -> None:
    picture, weight = image(16), random(8, 16, 3, 3, seed=1)
    wanted = F.conv2d(F.pad(picture, (0, 1, 0, 1)), weight, stride=2)
    torch.testing.assert_close(F.conv2d(picture, with_leading_zeros(weight), stride=2, padding=1), wanted)
