"""Kernels of ``nearest_fill``."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import functools
from typing import NamedTuple

import torch
import warp as wp
from torch import Tensor

from rome_lightning.acceleration.channels import channel_parts
from rome_lightning.acceleration.launch import OPTIONS, Vectors, launch_images, runs

wp.set_module_options(OPTIONS)


@wp.kernel
def nearest_row_kernel(mask: wp.array3d(dtype=wp.bool), nearest: wp.array3d(dtype=wp.int32)):
    """Nearest covered row in each column, -1 where there is none; one thread per column."""
    image, column = wp.tid()
    height = mask.shape[1]
    above = wp.int32(-1)
    for row in range(height):
        if mask[image, row, column]:
            above = row
        nearest[image, row, column] = above
    below = wp.int32(-1)
    for step in range(height):
        row = height - 1 - step
        if mask[image, row, column]:
            below = row
        above = nearest[image, row, column]
        if above < 0 or (below >= 0 and below - row < row - above):
            nearest[image, row, column] = below


@wp.func
def squared_distance(
    nearest: wp.array3d(dtype=wp.int32), image: wp.int32, row: wp.int32, column: wp.int32
) -> wp.int32:
    """Squared vertical distance to the nearest covered row of a column."""
    offset = nearest[image, row, column] - row
    return offset * offset


@wp.kernel
def nearest_column_kernel(
    nearest: wp.array3d(dtype=wp.int32),
    sites: wp.array3d(dtype=wp.int32),
    starts: wp.array3d(dtype=wp.int32),
    source: wp.array3d(dtype=wp.int32),
    distance: wp.array3d(dtype=wp.float32),
):
    """Lower envelope of parabolas along a row, in integers, so ties go to the left exactly.

    Source: Meijster et al., A general algorithm for computing distance transforms in linear time, 2000.
    """
    image, row = wp.tid()
    width = nearest.shape[2]
    last = wp.int32(-1)
    for column in range(width):
        if nearest[image, row, column] >= 0:
            height = squared_distance(nearest, image, row, column)
            popping = wp.bool(True)
            while popping and last >= 0:
                site = sites[image, row, last]
                start = starts[image, row, last]
                old = (start - site) * (start - site) + squared_distance(nearest, image, row, site)
                popping = old > (start - column) * (start - column) + height
                if popping:
                    last -= 1
            start = wp.int32(0)
            if last >= 0:
                site = sites[image, row, last]
                # The numerator is never negative here: the older parabola is not above at its start.
                above = column * column - site * site + height - squared_distance(nearest, image, row, site)
                start = above // (2 * (column - site)) + 1
            if start < width:
                last += 1
                sites[image, row, last] = column
                starts[image, row, last] = start
    for step in range(width):
        column = width - 1 - step
        if last < 0:
            source[image, row, column] = -1
            distance[image, row, column] = 1.0
        else:
            site = sites[image, row, last]
            source[image, row, column] = nearest[image, row, site] * width + site
            squared = (column - site) * (column - site) + squared_distance(nearest, image, row, site)
            distance[image, row, column] = wp.sqrt(wp.float32(squared)) / wp.float32(width)
            if column == starts[image, row, last]:
                last -= 1


class _Carriers(NamedTuple):
    forward: wp.Kernel
    backward: wp.Kernel


@functools.cache
def _carriers(num_channels: int) -> _Carriers:
    """Kernels for a number of channels, compiled on first use."""
    vector = wp.types.vector(length=num_channels, dtype=wp.float32)

    @wp.kernel(module="unique", module_options=OPTIONS)
    def carry_kernel(
        values: wp.array2d(dtype=vector),
        source: wp.array2d(dtype=wp.int32),
        length: wp.int32,
        carried: wp.array2d(dtype=vector),
    ):
        """Values of the source pixels, 0 without one; one thread per run of pixels."""
        image, run = wp.tid()
        for pixel in range(run * length, (run + 1) * length):
            value = vector()
            index = source[image, pixel]
            if index >= 0:
                value = values[image, index]
            carried[image, pixel] = value

    @wp.kernel(module="unique", module_options=OPTIONS)
    def carry_backward_kernel(
        gradient: wp.array2d(dtype=vector),
        source: wp.array2d(dtype=wp.int32),
        length: wp.int32,
        to_values: wp.array2d(dtype=vector),
    ):
        """Gradients of a run of pixels for their sources."""
        image, run = wp.tid()
        for pixel in range(run * length, (run + 1) * length):
            index = source[image, pixel]
            if index >= 0:
                wp.atomic_add(to_values, image, index, gradient[image, pixel])

    return _Carriers(carry_kernel, carry_backward_kernel)


def nearest_covered(mask: Tensor) -> tuple[Tensor, Tensor]:
    """See ``nearest_fill.nearest_covered``."""
    batch, height, width = mask.shape
    nearest, sites, starts = torch.empty((3, *mask.shape), dtype=torch.int32, device=mask.device)
    source = torch.empty(mask.shape, dtype=torch.int32, device=mask.device)
    distance = torch.empty(mask.shape, device=mask.device)
    launch_images(nearest_row_kernel, (batch, width), mask.contiguous(), nearest)
    launch_images(nearest_column_kernel, (batch, height), nearest, sites, starts, source, distance)
    return source, distance


def carry(values: Tensor, source: Tensor) -> Tensor:
    """See ``nearest_fill._carry``; the result is channels-last."""
    batch, num_channels, height, width = values.shape
    values = values.permute(0, 2, 3, 1).contiguous()
    carried = torch.empty_like(values)
    count, length = runs(height * width, values.device)
    for part in channel_parts(num_channels):
        kernel = _carriers(part.stop - part.start).forward
        planes = (Vectors(tensor[..., part].flatten(1, 2)) for tensor in (values, carried))
        launch_images(kernel, (batch, count), next(planes), source.flatten(1), length, next(planes))
    return carried.permute(0, 3, 1, 2)


def carry_backward(gradient: Tensor, source: Tensor) -> Tensor:
    """Gradient of ``carry`` for the values."""
    batch, num_channels, height, width = gradient.shape
    gradient = gradient.permute(0, 2, 3, 1).contiguous()
    to_values = torch.zeros_like(gradient)
    count, length = runs(height * width, gradient.device)
    for part in channel_parts(num_channels):
        kernel = _carriers(part.stop - part.start).backward
        planes = (Vectors(tensor[..., part].flatten(1, 2)) for tensor in (gradient, to_values))
        launch_images(kernel, (batch, count), next(planes), source.flatten(1), length, next(planes))
    return to_values.permute(0, 3, 1, 2)
