"""Visibility in pure torch: the reference of every backend, on any device.

Faces become (face, row) spans, spans become fragments, and an integer minimum over ``depth | face``
picks one fragment per pixel, so the result does not depend on the order. Predicates are computed in
float64, where differences and products of float32 coordinates are exact. Neighbouring faces evaluate their
shared edge with the same operations, so no pixel is drawn twice and none is missed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).max
"""Key of a pixel that no fragment covers."""


class _Candidates(NamedTuple):
    """Faces that may cover a pixel centre, corners sorted by y; every field has one item per face."""

    corners: Float64[Tensor, "3 3 n"]
    """Corner, then coordinate (x, y, z)."""
    slope: Float64[Tensor, "2 n"]
    """Change of depth per pixel along x and y."""
    image: Int64[Tensor, " n"]
    face: Int64[Tensor, " n"]


def visible_faces(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    image_size: tuple[int, int],
    cull_backfaces: bool = False,
) -> Int32[Tensor, "b h w"]:
    """Index of the nearest face at each pixel centre.

    Dropping empty faces and rows makes sizes depend on the data: on CUDA the host waits for the device each
    time. The Warp backend does not.

    Args:
        vertices_px: pixels, z in any unit, smaller is nearer; finite.
        faces: corner indices.
        image_size: (height, width).
        cull_backfaces: leave out faces seen from inside, which are counter-clockwise in the image
            because y points down.

    Returns:
        Face index, -1 on the background. At equal float32 depth the smaller index wins.
    """
    height, width = image_size
    batch = vertices_px.shape[0]
    buffer = torch.full((batch * height * width,), EMPTY, dtype=torch.int64, device=vertices_px.device)
    candidates = _candidates(vertices_px, faces, image_size, cull_backfaces)
    index, row, left, count = _spans(candidates.corners, image_size)
    span, step = _expand(count)
    x = left[span] + step
    index, row = index[span], row[span]
    key = _depth_bits(candidates, index, x, row) << 32 | candidates.face[index]
    pixel = (candidates.image[index] * height + row) * width + x
    buffer.scatter_reduce_(0, pixel, key, "amin")
    ids = torch.where(buffer == EMPTY, -1, buffer & 0x7FFFFFFF)
    return ids.to(torch.int32).view(batch, height, width)


def _candidates(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    image_size: tuple[int, int],
    cull_backfaces: bool,
) -> _Candidates:
    """Drop faces whose bounding box contains no pixel centre, then set up the others."""
    height, width = image_size
    columns = faces.long().T
    x, y = vertices_px[..., 0], vertices_px[..., 1]
    xs = [x[:, corner] for corner in columns]
    ys = [y[:, corner] for corner in columns]
    kept = _holds_centre(xs, width) & _holds_centre(ys, height)
    image, face = kept.nonzero(as_tuple=True)
    corners = vertices_px[image, columns[:, face]].permute(0, 2, 1).double()
    a, b, c = corners
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    kept = area < 0 if cull_backfaces else area != 0
    corners, image, face = _sorted_by_y(corners[..., kept]), image[kept], face[kept]
    return _Candidates(corners, _depth_slope(corners), image, face)


def _holds_centre(corners: list[Float[Tensor, "b f"]], size: int) -> Bool[Tensor, "b f"]:
    """Faces whose extent along one axis contains a pixel centre of the image, by the half-open rule."""
    a, b, c = corners
    low = torch.minimum(torch.minimum(a, b), c).ceil().clamp_(0, size)
    high = torch.maximum(torch.maximum(a, b), c).ceil().clamp_(0, size)
    return low < high


def _sorted_by_y(corners: Float64[Tensor, "3 3 n"]) -> Float64[Tensor, "3 3 n"]:
    """Sort corners by y with three stable exchanges."""
    a, b, c = corners
    swap = b[1] < a[1]
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    swap = c[1] < b[1]
    b, c = torch.where(swap, c, b), torch.where(swap, b, c)
    swap = b[1] < a[1]
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    return torch.stack([a, b, c])


def _depth_slope(corners: Float64[Tensor, "3 3 n"]) -> Float64[Tensor, "2 n"]:
    """Gradient of the plane through the corners, depth over x and y."""
    a, b, c = corners
    along, across = b - a, c - a
    area = along[0] * across[1] - across[0] * along[1]
    dx = (along[2] * across[1] - across[2] * along[1]) / area
    dy = (along[0] * across[2] - across[0] * along[2]) / area
    return torch.stack([dx, dy])


def _spans(
    corners: Float64[Tensor, "3 3 n"], image_size: tuple[int, int]
) -> tuple[Int64[Tensor, " s"], Int64[Tensor, " s"], Int64[Tensor, " s"], Int64[Tensor, " s"]]:
    """Pixel spans of each face: candidate, row, first column, number of columns.

    A centre on a left or top edge is inside, on a right or bottom edge outside.
    """
    height, width = image_size
    a, b, c = corners
    top = a[1].ceil().clamp(0, height).long()
    bottom = c[1].ceil().clamp(0, height).long()
    index, step = _expand(bottom - top)
    row = top[index] + step
    y = row.double()
    a, b, c = a[:, index], b[:, index], c[:, index]
    upper = y < b[1].ceil()
    start, end = torch.where(upper, a[:2], b[:2]), torch.where(upper, b[:2], c[:2])
    one, other = _crossing(a, c, y), _crossing(start, end, y)
    left = torch.minimum(one, other).ceil().clamp(0, width).long()
    right = torch.maximum(one, other).ceil().clamp(0, width).long()
    return index, row, left, right - left


def _crossing(
    start: Float64[Tensor, "d n"], end: Float64[Tensor, "d n"], y: Float64[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Position of an edge at height y. Dividing last keeps crossings at pixel centres exact."""
    return start[0] + ((y - start[1]) * (end[0] - start[0])) / (end[1] - start[1])


def _expand(count: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
    """Repeat each index ``count`` times: the indices, and the position within each run."""
    index = torch.repeat_interleave(count)
    start = count.cumsum(0) - count
    return index, torch.arange(len(index), device=count.device) - start[index]


def _depth_bits(
    candidates: _Candidates, index: Int64[Tensor, " m"], x: Int64[Tensor, " m"], y: Int64[Tensor, " m"]
) -> Int64[Tensor, " m"]:
    """Depth of fragments as integers that sort the same way.

    The bits of a non-negative float32 sort like the number; for negative ones the order of the lower bits is
    reversed.
    """
    a, b, c = candidates.corners
    slope_x, slope_y = candidates.slope
    depth = a[2][index] + ((x - a[0][index]) * slope_x[index] + (y - a[1][index]) * slope_y[index])
    # The plane of a sliver is ill-conditioned; its depth never leaves the range of its corners.
    low = torch.minimum(torch.minimum(a[2], b[2]), c[2])
    high = torch.maximum(torch.maximum(a[2], b[2]), c[2])
    depth = torch.minimum(torch.maximum(depth, low[index]), high[index])
    bits = depth.float().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
