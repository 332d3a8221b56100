"""Silhouettes with gradients for the vertices on the contour."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.acceleration.operator import operator
from rome_lightning.renderer.mesh_check import bounded, check_face_ids, check_mesh
from rome_lightning.renderer.torch_visibility import EMPTY, _expand

TILE = 8
"""Side of the tiles that the kernels skip if no contour passes through them, pixels."""


def coverage(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    fused: bool | None = None,
) -> Float[Tensor, "b 1 h w"]:
    """Anti-aliased silhouette: the share of each pixel that the mesh covers.

    Where a covered pixel has an uncovered neighbour, the outermost mesh edge between their centres
    determines how far the mesh reaches, and blends the pair. Each edge counts along one axis only: rows for
    steep edges, columns for flat ones. The sum of the image then changes with a vertex as the true area
    does; counting both axes would double the gradient. Only vertices on the contour receive gradients.

    Args:
        vertices_px: pixels.
        faces: corner indices.
        face_ids: visible face per pixel of the same mesh without culling, -1 on the background.
        fused: use the equivalent Warp kernels; by default wherever they can run.

    Returns:
        Coverage in [0, 1]; 0 or 1 away from the contour.
    """
    dtype = torch.float64 if vertices_px.dtype == torch.float64 else torch.float32
    vertices_px = vertices_px.to(dtype)
    fused = has_kernels(vertices_px) if fused is None else fused
    values, *_ = _coverage(vertices_px, faces, face_ids, fused)
    return values[:, None]


@operator("coverage")
def _coverage(
    vertices_px: Tensor, faces: Tensor, face_ids: Tensor, fused: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coverage, coverage before clamping, the contour, and the kernels' record of it.

    The contour is an int32 tensor (b, 2, h, w): entry (0, y, x) is the pair (y, x), (y, x + 1) and entry
    (1, y, x) the pair (y, x), (y + 1, x). If exactly one of the two is covered, the value is 3 face + corner
    of the outermost edge between them, which starts at that corner; else -1.
    """
    vertices_px = check_mesh(vertices_px, faces)
    check_face_ids(vertices_px, faces, face_ids)
    if fused:
        return kernels("renderer").coverage(vertices_px, faces, face_ids)
    mask = face_ids >= 0
    rows = _contour_of_rows(vertices_px[..., :2], faces, mask)
    columns = _contour_of_rows(vertices_px[..., [1, 0]], faces, mask.transpose(1, 2))
    contour = torch.stack([rows, columns.transpose(1, 2)], dim=1)
    values = mask.to(vertices_px.dtype)
    inner, outer, reach, _ = _pairs(vertices_px, faces, mask, contour)
    values.view(-1).index_add_(0, inner, reach.clamp_max(0))
    values.view(-1).index_add_(0, outer, reach.clamp_min(0))
    return values.clamp(0, 1), values, contour, contour.new_empty(0)


def _contour_of_rows(
    points: Float[Tensor, "b v 2"], faces: Int[Tensor, "f 3"], mask: Bool[Tensor, "b h w"]
) -> Int32[Tensor, "b h w"]:
    """Contour edges between horizontal neighbours.

    Args:
        points: x and y in pixels.
        faces: corner indices.
        mask: covered pixels.
    """
    batch, height, width = mask.shape
    differs = torch.zeros_like(mask)
    differs[:, :, :-1] = mask[:, :, 1:] != mask[:, :, :-1]
    tails, heads = faces.long().reshape(-1), faces.long().roll(-1, dims=1).reshape(-1)
    y = points[..., 1].ceil().clamp(0, height)
    image, edge = (y[:, tails] != y[:, heads]).nonzero(as_tuple=True)
    a, b = points[image, tails[edge]].double().T, points[image, heads[edge]].double().T
    # Both faces of an edge must compute the same crossing: start from the upper end.
    swap = b[1] < a[1]
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    top = a[1].ceil().clamp(0, height).long()
    index, step = _expand(b[1].ceil().clamp(0, height).long() - top)
    row = top[index] + step
    a, b, image = a[:, index], b[:, index], image[index]
    x = a[0] + ((row - a[1]) * (b[0] - a[0])) / (b[1] - a[1])
    left = x.ceil().clamp(0, width).long() - 1
    slot = (image * height + row) * width + left.clamp_min(0)
    kept = (left >= 0) & differs.reshape(-1)[slot]
    slot, edge, x, left = slot[kept], edge[index[kept]], x[kept], left[kept]
    # Distance from the covered centre to the crossing, reversed: the outermost has the smallest key.
    inside = torch.where(mask.reshape(-1)[slot], left + 1 - x, x - left)
    key = (inside.clamp(0, 1).float().view(torch.int32).long() << 32) | edge
    best = torch.full((batch * height * width,), EMPTY, dtype=torch.int64, device=mask.device)
    best.scatter_reduce_(0, slot, key, "amin")
    winner = torch.full_like(best, -1)
    wins = best[slot] == key
    winner[slot[wins]] = edge[wins]
    return winner.to(torch.int32).view(batch, height, width)


@_coverage.register_fake
def _(
    vertices_px: Tensor, faces: Tensor, face_ids: Tensor, fused: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, height, width = face_ids.shape
    tiles = (batch, -(-height // TILE), -(-width // TILE)) if fused else (0,)
    contour = face_ids.new_empty((batch, 2, height, width))
    values, unclamped = vertices_px.new_empty(face_ids.shape), vertices_px.new_empty(face_ids.shape)
    return values, unclamped, contour, face_ids.new_empty(tiles)


@operator("coverage_backward")
def _coverage_backward(
    gradient: Tensor,
    unclamped: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    contour: Tensor,
    tiles: Tensor,
    fused: bool,
) -> Tensor:
    """Gradient of the reach of each pair, passed to both ends of its edge."""
    vertices_px = bounded(vertices_px)
    if fused:
        mesh = (vertices_px, faces, face_ids, contour, tiles)
        return kernels("renderer").coverage_backward(gradient, unclamped, *mesh)
    inner, outer, reach, partials = _pairs(vertices_px, faces, face_ids >= 0, contour)
    flat = torch.where((unclamped < 0) | (unclamped > 1), 0, gradient).reshape(-1)
    per_pair = torch.where(reach < 0, flat[inner], flat[outer])
    total = torch.zeros_like(vertices_px, memory_format=torch.contiguous_format)
    for vertex, partial in partials:
        total.view(-1, 3).index_add_(0, vertex, partial * per_pair[:, None])
    return total


@_coverage_backward.register_fake
def _(
    gradient: Tensor,
    unclamped: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    contour: Tensor,
    tiles: Tensor,
    fused: bool,
) -> Tensor:
    return torch.empty_like(vertices_px, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, unclamped, contour, tiles = output
    ctx.mark_non_differentiable(unclamped, contour, tiles)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(unclamped, *inputs[:3], contour, tiles)
    ctx.fused = inputs[3]


def _backward(ctx, gradient: Tensor | None, *_: object):  # type: ignore[no-untyped-def]
    to_vertices = None if gradient is None else _coverage_backward(gradient, *ctx.saved_tensors, ctx.fused)
    return to_vertices, None, None, None


_coverage.register_autograd(_backward, setup_context=_setup_context)


def _pairs(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    mask: Bool[Tensor, "b h w"],
    contour: Int32[Tensor, "b 2 h w"],
) -> tuple[
    Int64[Tensor, " n"],
    Int64[Tensor, " n"],
    Float[Tensor, " n"],
    list[tuple[Int64[Tensor, " n"], Float[Tensor, "n 3"]]],
]:
    """Contour pairs: covered pixel, neighbour, reach, and (vertex, derivative of the reach) for both ends.

    The reach is the distance from the border between the two pixels to the contour, positive when the
    mesh extends into the uncovered one; between -1/2 and 1/2. Pixels and vertices are flat indices over
    the batch.
    """
    _, height, width = mask.shape
    image, axis, row, column = (contour >= 0).nonzero(as_tuple=True)
    edge = contour[image, axis, row, column].long()
    first = (image * height + row) * width + column
    second = first + torch.where(axis == 0, 1, width)
    first_covered = mask.reshape(-1)[first]
    inner, outer = torch.where(first_covered, first, second), torch.where(first_covered, second, first)

    tail = image * vertices_px.shape[1] + faces.long().reshape(-1)[edge]
    head = image * vertices_px.shape[1] + faces.long().roll(-1, dims=1).reshape(-1)[edge]
    a, b = vertices_px.reshape(-1, 3)[tail], vertices_px.reshape(-1, 3)[head]
    # Flat edges count along columns, all others along rows: each along one axis only.
    dx, dy = (b - a).double().abs()[:, :2].unbind(1)
    counts = torch.where(axis == 0, dy >= dx, dx > dy)
    axis, row, column, first_covered = axis[counts], row[counts], column[counts], first_covered[counts]
    inner, outer, tail, head, a, b = (item[counts] for item in (inner, outer, tail, head, a, b))
    along = axis[:, None]  # 0: pairs along x, crossing at a row; 1: the reverse
    across = 1 - along
    line = torch.where(axis == 0, row, column)
    start = torch.where(axis == 0, column, row)
    extent = (b.gather(1, across) - a.gather(1, across)).squeeze(1)
    share = (line - a.gather(1, across).squeeze(1)) / extent
    step = (b.gather(1, along) - a.gather(1, along)).squeeze(1)
    position = (a.gather(1, along).squeeze(1) - start) + share * step
    sign = torch.where(first_covered, 1, -1).to(a.dtype)
    reach = (position - 0.5).clamp(-0.5, 0.5) * sign
    partials = []
    for vertex, weight in ((tail, 1 - share), (head, share)):
        partial = torch.zeros_like(a).scatter(1, along, (sign * weight)[:, None])
        partial = partial.scatter(1, across, (-sign * weight * step / extent)[:, None])
        partials.append((vertex, partial))
    return inner, outer, reach, partials
