"""OpenCV's filters give what torch's operations do, and take over only where no gradient is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.acceleration import plain_torch
from rome_lightning.renderer import opencv, push_pull
from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.renderer.nearest_fill import nearest_covered, values_of
from rome_lightning.renderer.pooling import enlarged, in_planes, smoothed

SIZES = [(1, 1), (1, 9), (2, 3), (7, 7), (21, 34), (64, 48)]


def random(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(height)) - 0.3


def weights(height: int, width: int) -> Tensor:
    """Nothing is known in most places, and everything in some."""
    return random(height, width, 1).mul(3).clamp(0, 1)


def known(height: int, width: int) -> Tensor:
    """Some pixels of the first image, none of the second."""
    return (weights(height, width)[:, 0] > 0.5) & torch.tensor([True, False])[:, None, None]


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dilate": lambda image: dilate(image, 3),
    "erode": lambda image: erode(image, 2),
    "smoothed": lambda image: smoothed(image, 2),
    "enlarged": lambda image: enlarged(image, (2 * image.shape[-2], 2 * image.shape[-1])),
    "reduced": lambda image: enlarged(image, (max(1, image.shape[-2] * 2 // 3), image.shape[-1])),
    "nearest": lambda image: values_of(nearest_covered(known(*image.shape[-2:]))[0], image),
    "filled": lambda image: push_pull(image, weights(*image.shape[-2:])),
    "filled entirely": lambda image: push_pull(image, torch.zeros(2, 1, *image.shape[-2:])),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILTERS)
def test_both_ways_agree(name: str, size: tuple[int, int]) -> None:
    """Of images in planes, and with the channels innermost."""
    image = random(*size)
    wanted = FILTERS[name](image.clone().requires_grad_())
    assert wanted.requires_grad
    # OpenCV rounds positions to float32, which shows where they are not multiples of a quarter.
    limit = {"dilate": 0.0, "erode": 0.0, "nearest": 0.0, "reduced": 1e-5}.get(name, 1e-6)
    for given in (image, image.contiguous(memory_format=torch.channels_last)):
        kept = given.clone()
        found = FILTERS[name](given)
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=limit)
        assert torch.equal(given, kept)


def test_smoothing_and_enlarging_are_those_of_torch() -> None:
    image = random(21, 34)
    expected = F.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
    torch.testing.assert_close(smoothed(image, 2), expected, atol=1e-6, rtol=0)
    expected = F.interpolate(image, (42, 100), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged(image, (42, 100)), expected, atol=1e-5, rtol=0)


def test_planes_are_copied_from_any_layout() -> None:
    image = random(7, 9, 10)
    for given in (image, image.contiguous(memory_format=torch.channels_last), image[:, 2:5], image[:, :, 1:]):
        found = in_planes(given)
        assert torch.equal(found, given)
        assert found.is_contiguous()


def test_it_takes_over_only_without_gradient_and_in_float32() -> None:
    image = random(8, 8)
    assert opencv.can_filter(image)
    assert not opencv.can_filter(image, image.double())
    assert not opencv.can_filter(image.clone().requires_grad_())
    assert not opencv.can_filter(torch.empty(1, 1, 8, 8, device="meta"))
    with torch.no_grad():
        assert opencv.can_filter(image.clone().requires_grad_())
    with plain_torch():
        assert not opencv.can_filter(image)
