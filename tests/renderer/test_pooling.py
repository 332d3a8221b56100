"""Pooling by rows and columns, against torch's own layers."""

import pytest
import torch
from torch.nn import functional as F

from rome_lightning.renderer.pooling import folded, halved, smoothed, unfolded


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_halving_is_average_pooling(image: torch.Tensor) -> None:
    torch.testing.assert_close(halved(image), F.avg_pool2d(image, 2))


@pytest.mark.parametrize("reach", [0, 1, 4])
def test_smoothing_averages_what_lies_in_the_image(image: torch.Tensor, reach: int) -> None:
    expected = F.avg_pool2d(image, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    torch.testing.assert_close(smoothed(image, reach), expected)


@pytest.mark.parametrize("fold", [1, 2, 4])
def test_pixels_are_folded_in_the_order_of_pixel_unshuffle(image: torch.Tensor, fold: int) -> None:
    channels = F.pixel_unshuffle(image, fold)
    assert torch.equal(folded(image, fold), channels)
    assert torch.equal(unfolded(channels, fold), image)
