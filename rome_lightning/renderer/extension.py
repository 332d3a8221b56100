"""Values of a mask carried to the pixels outside it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rome_lightning.renderer.acceleration import has_kernels, warp_kernels

_MAX_ELEMENTS = 1 << 24
"""Elements of the largest intermediate tensor; wider batches are worked through in parts."""


def extend_outside(
    values: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b 1 h w"]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """Give every pixel the values of the nearest covered pixel.

    Args:
        values: kept where ``mask`` is true.
        mask: covered pixels.

    Returns:
        The extended values, differentiable, and the distance to the nearest covered pixel in pixels
        divided by the width, 0 on the mask. Among equally near pixels the leftmost column, then the
        upper row is taken. An image without a covered pixel gives values 0 and distance 1.
    """
    height, width = mask.shape[-2:]
    source = _nearest(mask[:, 0])
    index = source.clamp_min(0).flatten(1)
    found = (source >= 0)[:, None]
    extended = values.flatten(2).gather(2, index[:, None].expand(-1, values.shape[1], -1))
    row = torch.arange(height, device=mask.device)[:, None] - source // width
    column = torch.arange(width, device=mask.device) - source % width
    distance = (row.square() + column.square()).to(values.dtype).sqrt() / width
    return extended.view_as(values) * found, torch.where(found, distance[:, None], 1)


@torch.library.custom_op("rome_lightning::nearest_covered", mutates_args=())
def _nearest(mask: Tensor) -> Tensor:
    """Flat index of the nearest covered pixel of the same image, -1 where there is none."""
    if has_kernels(mask):
        return warp_kernels().nearest_covered(mask)
    return nearest_covered(mask)


@_nearest.register_fake
def _(mask: Tensor) -> Tensor:
    return mask.new_empty(mask.shape, dtype=torch.int64)


def nearest_covered(mask: Bool[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
    """The torch version of ``_nearest``."""
    height, width = mask.shape[1:]
    part = max(1, _MAX_ELEMENTS // (height * width * width))
    return torch.cat([_nearest_in(images) for images in mask.split(part)])


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
