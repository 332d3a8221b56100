"""Kernel of ``ssim``, for the CPU: all windows of two images in one pass, 16 neighbours at a time."""
# Kernels are Warp's own language in Python's syntax, which mypy misreads.
# mypy: ignore-errors

import warp as wp
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.acceleration import LANES
from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images

_GREY = 0.5
"""Subtracted from all pixels: variances then are differences of smaller numbers and lose fewer digits."""

vector = wp.types.vector(length=LANES, dtype=wp.float32)


@wp.kernel(module="unique", module_options=OPTIONS)
def windows_kernel(
    first: wp.array4d(dtype=vector),
    second: wp.array4d(dtype=vector),
    weights: wp.array1d(dtype=wp.float32),
    c1: wp.float32,
    c2: wp.float32,
    sums: wp.array3d(dtype=vector),
    result: wp.array3d(dtype=vector),
):
    """Similarity of each window, averaged over channels; one thread per image."""
    image = wp.tid()
    share = 1.0 / wp.float32(first.shape[1])
    grey = vector(_GREY)
    for row in range(result.shape[1]):
        for channel in range(first.shape[1]):
            # Weighted sums along columns, of one row of windows; they stay in the processor's cache.
            for group in range(result.shape[2]):
                at = LANES * group
                sum_a = vector()
                sum_b = vector()
                sum_squares = vector()
                sum_products = vector()
                for tap in range(weights.shape[0]):
                    a = first[image, channel, row + tap, at] - grey
                    b = second[image, channel, row + tap, at] - grey
                    weighted = weights[tap] * a
                    sum_a = sum_a + weighted
                    sum_b = sum_b + weights[tap] * b
                    sum_squares = sum_squares + weights[tap] * (wp.cw_mul(a, a) + wp.cw_mul(b, b))
                    sum_products = sum_products + wp.cw_mul(weighted, b)
                sums[image, 0, at] = sum_a
                sums[image, 1, at] = sum_b
                sums[image, 2, at] = sum_squares
                sums[image, 3, at] = sum_products
            for group in range(result.shape[2]):
                at = LANES * group
                mean_a = vector()
                mean_b = vector()
                squares = vector()
                products = vector()
                for tap in range(weights.shape[0]):
                    mean_a = mean_a + weights[tap] * sums[image, 0, at + tap]
                    mean_b = mean_b + weights[tap] * sums[image, 1, at + tap]
                    squares = squares + weights[tap] * sums[image, 2, at + tap]
                    products = products + weights[tap] * sums[image, 3, at + tap]
                covariance = products - wp.cw_mul(mean_a, mean_b)
                variances = squares - (wp.cw_mul(mean_a, mean_a) + wp.cw_mul(mean_b, mean_b))
                a = mean_a + grey
                b = mean_b + grey
                above = wp.cw_mul(2.0 * wp.cw_mul(a, b) + vector(c1), 2.0 * covariance + vector(c2))
                below = wp.cw_mul(wp.cw_mul(a, a) + wp.cw_mul(b, b) + vector(c1), variances + vector(c2))
                value = share * wp.cw_div(above, below)
                if channel > 0:
                    value = value + result[image, row, group]
                result[image, row, group] = value


def windows(first: Tensor, second: Tensor, weights: Tensor, c1: float, c2: float) -> Tensor:
    """Similarity of the windows inside the images, (b, h2, w2).

    Args:
        first: (b, c, h, w), [0, 1].
        second: the same.
        weights: of a window's rows and columns, (n,), with a sum of 1.
        c1: constant beside the means.
        c2: constant beside the variances.
    """
    batch, _, height, width = first.shape
    border = len(weights) - 1
    padding = -width % LANES
    images = (F.pad(image, (0, padding)) if padding else image.contiguous() for image in (first, second))
    sums = first.new_zeros((batch, 4, width + padding + LANES))
    result = first.new_empty((batch, height - border, width + padding))
    launch_images(
        windows_kernel,
        (batch,),
        *(_overlapping(image) for image in images),
        Shared(weights),
        c1,
        c2,
        _overlapping(sums),
        Vectors(result.unflatten(-1, (-1, LANES))),
    )
    return result[..., : width - border]


def _overlapping(rows: Tensor) -> Vectors:
    """A vector from each place of a row on, without a copy."""
    return Vectors(rows.unfold(-1, LANES, 1))
