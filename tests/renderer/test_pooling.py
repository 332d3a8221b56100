"""Pooling by rows and columns, against torch's own layers."""

import pytest
import torch
from torch.nn import functional as F

from rome_lightning.renderer.pooling import binomial, folded, halved, smoothed, unfolded


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


def test_binomial_means_remove_a_grid_and_keep_what_is_smooth(image: torch.Tensor) -> None:
    weights = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype) / 4
    kernel = (weights[:, None] * weights).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    torch.testing.assert_close(binomial(image), expected)
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(20.0), indexing="ij")
    slope = (rows + 2 * columns)[None, None]
    grid = 1 - 2 * ((rows + columns) % 2)[None, None]
    torch.testing.assert_close(binomial(slope + grid)[..., 1:-1, 1:-1], slope[..., 1:-1, 1:-1])
