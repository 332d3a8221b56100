"""PyTorch3D's rasterizer in torch, for the released weights, which were trained with it.

It differs visibly from ours in three ways: a pixel centre on an edge belongs to no face; of the faces that
cover a pixel, the one with the smallest float32 depth is visible, after the depth has been moved away from
the viewer; and barycentric weights are divided by the area plus a constant, so they sum to less than 1.

Source: Ravi et al., Accelerating 3D deep learning with PyTorch3D, 2020 (rasterize_meshes, its CPU version).
"""

# Annotations are not postponed here: torch infers the operators' schemas from them.
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.acceleration.operator import operator
from rome_lightning.renderer.mesh_check import check_image_size, check_mesh
from rome_lightning.renderer.torch_visibility import EMPTY, _expand

AREA_EPSILON = 1e-8
"""Added to twice the area of a triangle, NDC squared; triangles no larger than this are not drawn."""
DEPTH_SHIFT = 20.0
"""Depth that the release adds before it rasterizes, NDC, in two steps: it costs three bits of the depth."""
_MARGIN_PX = 1e-2
"""Widens the bounding boxes in which pixels are tested, so that rounding drops none."""


class ReleasedRasterizer:
    """Visibility by the rules of PyTorch3D's CPU rasterizer, on any device."""

    name = "release"

    def face_ids(
        self,
        vertices_px: Float[Tensor, "b v 3"],
        faces: Int[Tensor, "f 3"],
        image_size: tuple[int, int],
        cull_backfaces: bool = False,
    ) -> Int32[Tensor, "b h w"]:
        """See ``Rasterizer.face_ids``."""
        ids: Tensor = _released_ids(vertices_px.detach().float(), faces, *image_size, cull_backfaces)
        return ids


@operator("released_ids")
def _released_ids(
    vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool
) -> Tensor:
    """Opaque to graph capture, because the work depends on data."""
    check_mesh(vertices_px, faces)
    check_image_size(height, width)
    unit = 2 / min(height, width)
    x, y, z = vertices_px.unbind(-1)
    depth = z * unit + DEPTH_SHIFT / 2 + DEPTH_SHIFT / 2
    points = torch.stack([(width / 2 - 0.5 - x) * unit, (height / 2 - 0.5 - y) * unit, depth], dim=-1)
    return released_faces(points, faces, (height, width), cull_backfaces)


@_released_ids.register_fake
def _(vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool) -> Tensor:
    return vertices_px.new_empty((vertices_px.shape[0], height, width), dtype=torch.int32)


def released_faces(
    points: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    image_size: tuple[int, int],
    cull_backfaces: bool = False,
) -> Int32[Tensor, "b h w"]:
    """Index of the face with the smallest depth at each pixel centre, -1 on the background.

    Operations and their order match PyTorch3D's, so that rounding breaks ties the same way.

    Args:
        points: PyTorch3D's space: x left, y up, [-1, 1] along the shorter side, positive depth.
        faces: corner indices.
        image_size: (height, width).
        cull_backfaces: leave out faces of negative area.
    """
    height, width = image_size
    corners = points[:, faces.long()]
    unit = 2 / min(height, width)
    columns = width / 2 - 0.5 - corners[..., 0] / unit
    rows = height / 2 - 0.5 - corners[..., 1] / unit
    area = _edge(corners[:, :, 0], corners[:, :, 1], corners[:, :, 2])
    drawn = area > AREA_EPSILON if cull_backfaces else area.abs() > AREA_EPSILON
    image, face = drawn.nonzero(as_tuple=True)
    left, right = _range(columns[image, face], width)
    top, bottom = _range(rows[image, face], height)
    index, step = _expand((bottom - top).clamp_min(0))
    row = top[index] + step
    span, step = _expand((right - left).clamp_min(0)[index])
    index, row = index[span], row[span]
    column = left[index] + step
    centre = torch.stack([_centre(column, width, height), _centre(row, height, width)], dim=-1)
    a, b, c = corners[image[index], face[index]].unbind(1)
    total = _edge(c, a, b) + AREA_EPSILON
    first, second, third = (_edge(centre, *side) / total for side in ((b, c), (c, a), (a, b)))
    depth = first * a[:, 2] + second * b[:, 2] + third * c[:, 2]
    kept = (first > 0) & (second > 0) & (third > 0) & (depth >= 0)
    key = depth.view(torch.int32).long() << 32 | face[index]
    pixel = (image[index] * height + row) * width + column
    buffer = torch.full((len(points) * height * width,), EMPTY, dtype=torch.int64, device=points.device)
    buffer.scatter_reduce_(0, pixel[kept], key[kept], "amin")
    ids = torch.where(buffer == EMPTY, -1, buffer & 0x7FFFFFFF)
    return ids.to(torch.int32).view(-1, height, width)


def _edge(point: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Twice the signed area of a triangle."""
    return (point[..., 0] - start[..., 0]) * (end[..., 1] - start[..., 1]) - (
        point[..., 1] - start[..., 1]
    ) * (end[..., 0] - start[..., 0])


def _range(positions: Float[Tensor, "n 3"], size: int) -> tuple[Tensor, Tensor]:
    """First pixel in the range of three corners along one axis, and one past the last."""
    low = (positions.amin(1) - _MARGIN_PX).ceil().clamp(0, size)
    high = (positions.amax(1) + _MARGIN_PX).floor().clamp(-1, size - 1)
    return low.long(), high.long() + 1


def _centre(index: Int[Tensor, " n"], size: int, other: int) -> Float[Tensor, " n"]:
    """Position of pixel centres along an axis that runs from right to left, or from bottom to top."""
    extent = 2.0 * max(size / other, 1.0)
    return (extent * (size - 1 - index).float() + extent / 2) / size - extent / 2


def released_share(
    vertices_px: Float[Tensor, "#b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "#b h w"],
) -> Float[Tensor, "b 1 h w"]:
    """Sum of PyTorch3D's barycentric weights at each pixel, by which interpolated values are scaled.

    Args:
        vertices_px: pixels.
        faces: corner indices.
        face_ids: visible face per pixel; the sum is 1 on the background, -1.
    """
    unit = 2 / min(face_ids.shape[1:])
    xy = vertices_px[..., :2] * unit
    a, b, c = xy[:, faces.long()].unbind(2)
    area = _edge(c, a, b)
    share = area / (area + AREA_EPSILON)
    ids = face_ids.flatten(1).long()
    batch = max(len(share), len(ids))
    picked = share.expand(batch, -1).gather(1, ids.clamp_min(0).expand(batch, -1))
    return torch.where(ids >= 0, picked, 1.0).view(batch, 1, *face_ids.shape[1:])
