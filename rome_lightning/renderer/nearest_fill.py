"""Nearest-neighbour fill: values inside a mask extended to the pixels outside it."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.acceleration.operator import operator
from rome_lightning.geometry.checks import check_batches, check_indices
from rome_lightning.renderer import opencv

_MAX_ELEMENTS = 1 << 24
"""Elements of the largest intermediate tensor; larger batches are processed in parts."""


def extend_outside(
    values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b 1 h w"]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """Give every pixel the values of the nearest covered pixel.

    Args:
        values: kept where ``mask`` is true.
        mask: covered pixels.

    Returns:
        The extended values, differentiable, and the distance of ``nearest_covered``. An image without a
        covered pixel gives values 0 and distance 1.
    """
    nearest, distance = nearest_covered(mask[:, 0])
    extended = values_of(nearest, values)
    return extended, distance.to(extended.dtype)[:, None]


def values_of(nearest: Int32[Tensor, "b h w"], values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The value at the pixel that ``nearest_covered`` found for each pixel, differentiable; 0 without one.

    Channels-last where a gradient may be needed or off the CPU, else in planes.
    """
    if opencv.can_filter(values):
        check_batches(values=(values, False), source=(nearest, False))
        check_indices("source", nearest, values[0, 0].numel(), lowest=-1)
        return opencv.values_of(nearest, values)
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    carried: Tensor = _carry(values.to(dtype), nearest, has_kernels(values))
    return carried


@operator("carry")
def _carry(values: Tensor, source: Tensor, fused: bool) -> Tensor:
    """Values (b, c, h, w) at flat source pixels (b, h, w), channels-last; 0 where the source is -1."""
    check_batches(values=(values, False), source=(source, False))
    check_indices("source", source, values[0, 0].numel(), lowest=-1)
    if fused:
        return kernels("renderer").carry(values, source)
    index = source.flatten(1).clamp_min(0).long()[:, None].expand(-1, values.shape[1], -1)
    carried = values.flatten(2).gather(2, index).view(values.shape) * (source >= 0)[:, None]
    return carried.contiguous(memory_format=torch.channels_last)


@_carry.register_fake
def _(values: Tensor, source: Tensor, fused: bool) -> Tensor:
    return torch.empty_like(values, memory_format=torch.channels_last)


@operator("carry_backward")
def _carry_backward(gradient: Tensor, source: Tensor, fused: bool) -> Tensor:
    """Gradient of ``_carry`` for the values."""
    if fused:
        return kernels("renderer").carry_backward(gradient, source)
    index = source.flatten(1).clamp_min(0).long()[:, None].expand(-1, gradient.shape[1], -1)
    parts = (gradient * (source >= 0)[:, None]).flatten(2)
    total = torch.zeros_like(parts).scatter_add(2, index, parts).view(gradient.shape)
    return total.contiguous(memory_format=torch.channels_last)


@_carry_backward.register_fake
def _(gradient: Tensor, source: Tensor, fused: bool) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[1])
    ctx.fused = inputs[2]


def _backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    return _carry_backward(gradient, *ctx.saved_tensors, ctx.fused), None, None


_carry.register_autograd(_backward, setup_context=_setup_context)


def nearest_covered(
    mask: Bool[Tensor, "b h w"],
) -> tuple[Int32[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Flat index of the nearest covered pixel of the same image, and its distance in image widths.

    Of equally near pixels the one in the leftmost column wins, then the upper one. An image without a covered
    pixel gives -1 and 1.
    """
    nearest, distance = _nearest(mask)
    return nearest, distance


@operator("nearest_covered")
def _nearest(mask: Tensor) -> tuple[Tensor, Tensor]:
    """See ``nearest_covered``."""
    check_batches(mask=(mask, False))
    return kernels("renderer").nearest_covered(mask) if has_kernels(mask) else _search(mask)


@_nearest.register_fake
def _(mask: Tensor) -> tuple[Tensor, Tensor]:
    return mask.new_empty(mask.shape, dtype=torch.int32), mask.new_empty(mask.shape, dtype=torch.float32)


def _search(mask: Bool[Tensor, "b h w"]) -> tuple[Int32[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """``nearest_covered`` without the kernels."""
    height, width = mask.shape[1:]
    part = max(1, _MAX_ELEMENTS // (height * width * width))
    source = torch.cat([_nearest_in(images) for images in mask.split(part)])
    return source.to(torch.int32), distance_to(source)


def distance_to(source: Int64[Tensor, "b h w"] | Int32[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """From each pixel to the pixel of its flat index, image widths; 1 for the index -1."""
    height, width = source.shape[1:]
    row = torch.arange(height, device=source.device)[:, None] - source // width
    column = torch.arange(width, device=source.device) - source % width
    distance = (row.square() + column.square()).float().sqrt() / width
    return torch.where(source >= 0, distance, 1)


def _nearest_in(mask: Bool[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
    """Exact and separable: nearest covered row in each column, then the best column of each row."""
    height, width = mask.shape[1:]
    device = mask.device
    rows = torch.arange(height, device=device)[:, None]
    far = 2 * (height + width)
    above = torch.where(mask, rows, -far).cummax(1).values
    below = -(torch.where(mask, -rows, -far).flip(1).cummax(1).values.flip(1))
    row = torch.where(rows - above <= below - rows, above, below)
    vertical = (row - rows).square()
    columns = torch.arange(width, device=device)
    horizontal = (columns[:, None] - columns).square()
    # One integer holds squared distance, then column: the minimum is exact and unique.
    key = (vertical[:, :, None, :] + horizontal) * width + columns
    best = key.amin(-1)
    column = best % width
    source = row.gather(2, column) * width + column
    return torch.where(mask.flatten(1).any(1)[:, None, None], source, -1)
