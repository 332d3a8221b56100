"""Filters of images by OpenCV, for pictures that need no gradient and lie in the CPU's memory.

OpenCV's take a quarter (dilation) to a tenth (enlarging) of the time of torch's operations, and one call
replaces dozens, which counts for small images. Dilation and erosion are equal to the bit, the rest up to
rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from rome_lightning.acceleration import is_plain

_LEAST_WEIGHT = 1e-6
"""Smallest weight by which ``filled`` divides."""


def can_filter(*images: Tensor) -> bool:
    """Whether OpenCV can take over: no gradient, nothing traced or compiled, float32 on the CPU."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_plain()) and all(
        type(image) in (Tensor, torch.nn.Parameter)
        and image.device.type == "cpu"
        and image.dtype == torch.float32
        and not (torch.is_grad_enabled() and image.requires_grad)
        for image in images
    )


def dilated(image: Float[Tensor, "b c h w"], reach: int) -> Float[Tensor, "b c h w"]:
    """The largest value in a square around each pixel; see ``morphology.dilate``."""
    import cv2

    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return _planewise(image, lambda plane, result: cv2.dilate(plane, square, dst=result))


def eroded(image: Float[Tensor, "b c h w"], reach: int) -> Float[Tensor, "b c h w"]:
    """The smallest value in a square around each pixel; see ``morphology.erode``."""
    import cv2

    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return _planewise(image, lambda plane, result: cv2.erode(plane, square, dst=result))


def box_means(image: Float[Tensor, "b c h w"], reach: int) -> Float[Tensor, "b c h w"]:
    """See ``pooling.smoothed``."""
    import cv2

    side, border = (2 * reach + 1, 2 * reach + 1), cv2.BORDER_CONSTANT
    count = _inside(*image.shape[-2:], reach)

    def work(plane: np.ndarray, result: np.ndarray) -> None:
        cv2.boxFilter(plane, -1, side, dst=result, normalize=False, borderType=border)
        np.divide(result, count, out=result)

    return _planewise(image, work)


@functools.lru_cache(maxsize=16)
def _inside(height: int, width: int, reach: int) -> Float32[np.ndarray, "h w"]:
    """How many pixels of a square around each pixel lie in the image."""
    rows, columns = (
        np.minimum(np.arange(length) + reach, length - 1) - np.maximum(np.arange(length) - reach, 0) + 1
        for length in (height, width)
    )
    return (rows[:, None] * columns).astype(np.float32)


def resized(image: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear interpolation, as by ``torch.nn.functional.interpolate`` without antialiasing.

    Args:
        image: any values.
        size: height and width, pixels.
    """
    import cv2

    return _planewise(image, lambda plane, result: cv2.resize(plane, size[::-1], dst=result), size)


def filled(texture: Float[Tensor, "b c h w"], weight: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """See ``fill.push_pull``."""
    weight = weight.expand(len(texture), -1, -1, -1)[:, 0]
    pairs = zip(texture.detach().numpy(), weight.detach().numpy(), strict=True)
    images = [torch.from_numpy(_filled(planes, confidence)) for planes, confidence in pairs]
    return torch.stack(images) if len(images) != 1 else images[0][None]


def in_planes(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """See ``pooling.in_planes``; of an image whose channels are innermost."""
    import cv2

    result = torch.empty(image.shape)
    rows = image.detach().permute(0, 2, 3, 1).flatten(1, 2).numpy()
    for pixels, planes in zip(rows, result.flatten(2).numpy(), strict=True):
        cv2.transpose(pixels, dst=planes)
    return result


def values_of(nearest: Int32[Tensor, "b h w"], values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """See ``nearest_fill.values_of``."""
    result = torch.zeros(values.shape)
    values = in_planes(values) if values.is_contiguous(memory_format=torch.channels_last) else values
    planes, places = values.detach().flatten(2).numpy(), nearest.flatten(1).numpy()
    for image, index, memory in zip(planes, places, result.flatten(2).numpy(), strict=True):
        # An image has no source anywhere or at all pixels.
        if index[0] >= 0:
            np.take(image, index, axis=1, out=memory, mode="clip")
    return result


def _filled(
    texture: Float32[np.ndarray, "c h w"], weight: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "c h w"]:
    import cv2

    _, height, width = texture.shape
    sums = texture * weight
    if min(height, width) == 1:
        mean = sums.sum((1, 2), keepdims=True) / max(weight.sum(), _LEAST_WEIGHT)
        return np.broadcast_to(mean, texture.shape).copy()
    half = (width // 2, height // 2)
    even = np.s_[: half[1] * 2, : half[0] * 2]
    # Exactly half the size: the area's mean is that of 2 x 2 pixels.
    total = cv2.resize(weight[even], half, interpolation=cv2.INTER_AREA) * 4
    means = np.empty((len(texture), *half[::-1]), np.float32)
    for plane, mean in zip(sums, means, strict=True):
        cv2.resize(plane[even], half, dst=mean, interpolation=cv2.INTER_AREA)
    means *= 4 / np.maximum(total, _LEAST_WEIGHT)
    result = np.empty_like(texture, order="C")
    for plane, enlarged in zip(_filled(means, np.minimum(total, 1)), result, strict=True):
        cv2.resize(plane, (width, height), dst=enlarged)
    # What a linear interpolation by the weight is, without another picture for its parts.
    np.subtract(texture, result, out=sums)
    sums *= weight
    result += sums
    return result


def _planewise(
    image: Float[Tensor, "b c h w"],
    work: Callable[[np.ndarray, np.ndarray], object],
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "b c h2 w2"]:
    """Call ``work`` with each channel and the memory for its result, of another size if one is given."""
    result = image.new_empty((*image.shape[:2], *(size or image.shape[-2:])))
    planes = image.detach().flatten(0, 1).numpy()
    for plane, memory in zip(planes, result.flatten(0, 1).numpy(), strict=True):
        work(plane, memory)
    return result
