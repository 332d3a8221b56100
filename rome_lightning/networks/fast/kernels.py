"""Kernels of ``winograd`` and ``pointwise``, for the CPU: what comes before and after the products.

All read and write channels-last memory, ``LANES`` channels at a time as one vector.

Source: Lavin & Gray, Fast algorithms for convolutional neural networks, 2016, F(4x4, 3x3).
"""
# Kernels are Warp's own language in Python's syntax, which mypy misreads.
# mypy: ignore-errors

import math

import warp as wp
from torch import Tensor

from rome_lightning.acceleration import LANES
from rome_lightning.acceleration.launch import OPTIONS, Vectors, launch, launch_images

_PIXELS_AT_ONCE = 256
"""Sums in single precision are over at most so many pixels; the caller adds those in double precision."""

vector = wp.types.vector(length=LANES, dtype=wp.float32)


@wp.func
def to_frequencies(
    d0: vector, d1: vector, d2: vector, d3: vector, d4: vector, d5: vector
) -> tuple[vector, vector, vector, vector, vector, vector]:
    """Six neighbours along one axis to six frequencies (the paper's B transposed)."""
    even = d4 - 4.0 * d2
    odd = d3 - 4.0 * d1
    near = d4 - d2
    far = 2.0 * (d3 - d1)
    return 4.0 * d0 - 5.0 * d2 + d4, even + odd, even - odd, near + far, near - far, 4.0 * d1 - 5.0 * d3 + d5


@wp.func
def from_frequencies(
    m0: vector, m1: vector, m2: vector, m3: vector, m4: vector, m5: vector
) -> tuple[vector, vector, vector, vector]:
    """Six frequencies along one axis to four outputs (the paper's A transposed)."""
    near_sum = m1 + m2
    near_difference = m1 - m2
    far_sum = m3 + m4
    far_difference = m3 - m4
    return (
        m0 + near_sum + far_sum,
        near_difference + 2.0 * far_difference,
        near_sum + 4.0 * far_sum,
        near_difference + 8.0 * far_difference + m5,
    )


@wp.func
def pixel(
    image: wp.array2d(dtype=vector),
    row: wp.int32,
    column: wp.int32,
    height: wp.int32,
    width: wp.int32,
    group: wp.int32,
) -> vector:
    """Some channels of a pixel, 0 outside the image."""
    if row < 0 or row >= height or column < 0 or column >= width:
        return vector()
    return image[row * width + column, group]


@wp.kernel(module="unique", module_options=OPTIONS)
def winograd_input_kernel(
    image: wp.array2d(dtype=vector),
    height: wp.int32,
    width: wp.int32,
    num_groups: wp.int32,
    first: wp.int32,
    spectrum: wp.array2d(dtype=vector),
):
    """Frequencies of tiles of 6 x 6 pixels that overlap by two; one thread per row of tiles."""
    line = wp.tid()
    num_tiles = (width + 3) // 4
    top = 4 * (first + line) - 1
    for tile in range(num_tiles):
        left = 4 * tile - 1
        start = 36 * (line * num_tiles + tile)
        for group in range(num_groups):
            for j in range(6):
                f0, f1, f2, f3, f4, f5 = to_frequencies(
                    pixel(image, top, left + j, height, width, group),
                    pixel(image, top + 1, left + j, height, width, group),
                    pixel(image, top + 2, left + j, height, width, group),
                    pixel(image, top + 3, left + j, height, width, group),
                    pixel(image, top + 4, left + j, height, width, group),
                    pixel(image, top + 5, left + j, height, width, group),
                )
                spectrum[start + j, group] = f0
                spectrum[start + 6 + j, group] = f1
                spectrum[start + 12 + j, group] = f2
                spectrum[start + 18 + j, group] = f3
                spectrum[start + 24 + j, group] = f4
                spectrum[start + 30 + j, group] = f5
            for i in range(6):
                at = start + 6 * i
                f0, f1, f2, f3, f4, f5 = to_frequencies(
                    spectrum[at, group],
                    spectrum[at + 1, group],
                    spectrum[at + 2, group],
                    spectrum[at + 3, group],
                    spectrum[at + 4, group],
                    spectrum[at + 5, group],
                )
                spectrum[at, group] = f0
                spectrum[at + 1, group] = f1
                spectrum[at + 2, group] = f2
                spectrum[at + 3, group] = f3
                spectrum[at + 4, group] = f4
                spectrum[at + 5, group] = f5


@wp.kernel(module="unique", module_options=OPTIONS)
def winograd_doubled_input_kernel(
    image: wp.array2d(dtype=vector),
    height: wp.int32,
    width: wp.int32,
    num_groups: wp.int32,
    first: wp.int32,
    spectrum: wp.array2d(dtype=vector),
):
    """The same of an image doubled by nearest upsampling, read from the image itself.

    Neighbours are equal in pairs, which makes the third frequency of each axis vanish: 5 x 5 are left.
    """
    line = wp.tid()
    num_tiles = (width + 1) // 2
    top = 2 * (first + line) - 1
    for tile in range(num_tiles):
        left = 2 * tile - 1
        start = 25 * (line * num_tiles + tile)
        for group in range(num_groups):
            for j in range(4):
                above = pixel(image, top, left + j, height, width, group)
                upper = pixel(image, top + 1, left + j, height, width, group)
                lower = pixel(image, top + 2, left + j, height, width, group)
                below = pixel(image, top + 3, left + j, height, width, group)
                f0, f1, _f2, f3, f4, f5 = to_frequencies(above, upper, upper, lower, lower, below)
                spectrum[start + j, group] = f0
                spectrum[start + 5 + j, group] = f1
                spectrum[start + 10 + j, group] = f3
                spectrum[start + 15 + j, group] = f4
                spectrum[start + 20 + j, group] = f5
            for i in range(5):
                at = start + 5 * i
                second = spectrum[at + 1, group]
                third = spectrum[at + 2, group]
                f0, f1, _f2, f3, f4, f5 = to_frequencies(
                    spectrum[at, group], second, second, third, third, spectrum[at + 3, group]
                )
                spectrum[at, group] = f0
                spectrum[at + 1, group] = f1
                spectrum[at + 2, group] = f3
                spectrum[at + 3, group] = f4
                spectrum[at + 4, group] = f5


@wp.func
def put(
    image: wp.array2d(dtype=vector),
    row: wp.int32,
    column: wp.int32,
    height: wp.int32,
    width: wp.int32,
    group: wp.int32,
    value: vector,
    adds: wp.bool,
):
    """Write some channels of a pixel, or add to them; outside the image nothing happens."""
    if row < height and column < width:
        if adds:
            image[row * width + column, group] = image[row * width + column, group] + value
        else:
            image[row * width + column, group] = value


@wp.kernel(module="unique", module_options=OPTIONS)
def winograd_output_kernel(
    spectrum: wp.array2d(dtype=vector),
    height: wp.int32,
    width: wp.int32,
    num_groups: wp.int32,
    first: wp.int32,
    side: wp.int32,
    adds: wp.bool,
    image: wp.array2d(dtype=vector),
):
    """Tiles of 4 x 4 pixels from their frequencies, 6 x 6 or, without the third, 5 x 5."""
    line = wp.tid()
    num_tiles = (width + 3) // 4
    top = 4 * (first + line)
    # Where the frequencies after the third are.
    late = side - 3
    for tile in range(num_tiles):
        left = 4 * tile
        start = side * side * (line * num_tiles + tile)
        for group in range(num_groups):
            for j in range(side):
                at = start + j
                f2 = vector()
                if side == 6:
                    f2 = spectrum[at + 2 * side, group]
                y0, y1, y2, y3 = from_frequencies(
                    spectrum[at, group],
                    spectrum[at + side, group],
                    f2,
                    spectrum[at + late * side, group],
                    spectrum[at + (late + 1) * side, group],
                    spectrum[at + (late + 2) * side, group],
                )
                spectrum[at, group] = y0
                spectrum[at + side, group] = y1
                spectrum[at + 2 * side, group] = y2
                spectrum[at + 3 * side, group] = y3
            for i in range(4):
                at = start + i * side
                f2 = vector()
                if side == 6:
                    f2 = spectrum[at + 2, group]
                y0, y1, y2, y3 = from_frequencies(
                    spectrum[at, group],
                    spectrum[at + 1, group],
                    f2,
                    spectrum[at + late, group],
                    spectrum[at + late + 1, group],
                    spectrum[at + late + 2, group],
                )
                put(image, top + i, left, height, width, group, y0, adds)
                put(image, top + i, left + 1, height, width, group, y1, adds)
                put(image, top + i, left + 2, height, width, group, y2, adds)
                put(image, top + i, left + 3, height, width, group, y3, adds)


@wp.kernel(module="unique", module_options=OPTIONS)
def moments_kernel(
    pixels: wp.array3d(dtype=vector),
    sums: wp.array2d(dtype=vector),
    squares: wp.array2d(dtype=vector),
):
    """Sums and sums of squares of each channel over a run of pixels."""
    run = wp.tid()
    # In the order of the memory, which the processor fetches ahead; the sums stay in its cache.
    for pixel in range(pixels.shape[1]):
        for group in range(pixels.shape[2]):
            value = pixels[run, pixel, group]
            sums[run, group] = sums[run, group] + value
            squares[run, group] = squares[run, group] + wp.cw_mul(value, value)


@wp.kernel(module="unique", module_options=OPTIONS)
def scaled_relu_kernel(
    pixels: wp.array2d(dtype=vector),
    scale: wp.array1d(dtype=vector),
    shift: wp.array1d(dtype=vector),
    length: wp.int32,
    result: wp.array2d(dtype=vector),
):
    """A factor and a summand for each channel, negative results set to 0; one thread per run of pixels."""
    run = wp.tid()
    for pixel in range(run * length, wp.min((run + 1) * length, pixels.shape[0])):
        for group in range(pixels.shape[1]):
            value = wp.cw_mul(pixels[pixel, group], scale[group]) + shift[group]
            result[pixel, group] = wp.max(value, vector())


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares, (b, runs, c), of some neighbouring pixels each.

    Args:
        images: (b, h, w, c), contiguous.
    """
    batch, height, width, channels = images.shape
    length = math.gcd(height * width, _PIXELS_AT_ONCE)
    pixel_runs = images.view(-1, length, channels // LANES, LANES)
    sums, squares = images.new_zeros((2, len(pixel_runs), *pixel_runs.shape[2:]))
    launch_images(moments_kernel, (len(pixel_runs),), Vectors(pixel_runs), Vectors(sums), Vectors(squares))
    return sums.view(batch, -1, channels), squares.view(batch, -1, channels)


def scaled_relu(image: Tensor, scale: Tensor, shift: Tensor, result: Tensor) -> None:
    """Write the larger of 0 and ``scale * image + shift``.

    Args:
        image: (h, w, c), contiguous.
        scale: (c,).
        shift: (c,).
        result: like ``image``.
    """
    affine = (Vectors(tensor.unflatten(0, (-1, LANES))) for tensor in (scale, shift))
    size = (-(-image.shape[0] * image.shape[1] // _PIXELS_AT_ONCE),)
    launch(scaled_relu_kernel, size, _grouped(image), *affine, _PIXELS_AT_ONCE, _grouped(result))


def to_spectrum(image: Tensor, spectrum: Tensor, first: int, num_lines: int, doubled: bool) -> None:
    """Frequencies of the tiles of some rows of tiles.

    Args:
        image: (h, w, c).
        spectrum: is written, (tiles, frequencies, c).
        first: row of tiles.
        num_lines: rows of tiles.
        doubled: of the image doubled by nearest upsampling.
    """
    height, width, channels = image.shape
    kernel = winograd_doubled_input_kernel if doubled else winograd_input_kernel
    sizes = (height, width, channels // LANES, first)
    launch(kernel, (num_lines,), _grouped(image), *sizes, _grouped(spectrum))


def from_spectrum(
    spectrum: Tensor, image: Tensor, first: int, num_lines: int, doubled: bool, adds: bool
) -> None:
    """The tiles of some rows of tiles from their frequencies, which are destroyed.

    Args:
        spectrum: (tiles, frequencies, c).
        image: is written or added to, (h, w, c).
        first: row of tiles.
        num_lines: rows of tiles.
        doubled: the frequencies are those of a doubled image.
        adds: add to the image instead of replacing it.
    """
    height, width, channels = image.shape
    sizes = (height, width, channels // LANES, first, 5 if doubled else 6)
    launch(winograd_output_kernel, (num_lines,), _grouped(spectrum), *sizes, adds, _grouped(image))


def _grouped(tensor: Tensor) -> Vectors:
    """Pixels, or frequencies, by groups of channels."""
    return Vectors(tensor.flatten(0, 1).unflatten(1, (-1, LANES)))
