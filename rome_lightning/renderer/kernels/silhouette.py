"""Kernels of ``silhouette``."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import torch
import warp as wp
from torch import Tensor

from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images, runs
from rome_lightning.renderer import silhouette
from rome_lightning.renderer.kernels.pixels import centres_within, first_centre, ordered_bits

wp.set_module_options(OPTIONS)

TILE = wp.constant(silhouette.TILE)
EMPTY = torch.iinfo(torch.int64).max
"""Key of a pair that no edge crosses."""


@wp.struct
class Edge:
    """An edge with its upper end first, seen along one axis: u along the pair, v across it."""

    start_u: wp.float64
    start_v: wp.float64
    end_u: wp.float64
    end_v: wp.float64


@wp.struct
class Reach:
    """How far the mesh reaches over the border of a contour pair, and the derivatives of that."""

    found: wp.bool
    first_covered: wp.bool
    value: wp.float32
    tail: wp.int32
    head: wp.int32
    share: wp.float32
    slope: wp.float32


@wp.func
def edge_along(a: wp.vec3, b: wp.vec3, axis: wp.int32) -> Edge:
    """Order an edge along the axis across the pair, so that both its faces compute the same crossing."""
    u = axis
    v = 1 - axis
    result = Edge()
    if b[v] < a[v]:
        held = a
        a = b
        b = held
    result.start_u = wp.float64(a[u])
    result.start_v = wp.float64(a[v])
    result.end_u = wp.float64(b[u])
    result.end_v = wp.float64(b[v])
    return result


@wp.kernel
def tiles_kernel(
    ids: wp.array3d(dtype=wp.int32),
    length: wp.int32,
    tiles: wp.array3d(dtype=wp.int32),
):
    """Mark the tiles of both pixels of contour pairs; one thread per run of pixels."""
    image, row, run = wp.tid()
    last_row = ids.shape[1] - 1
    last_column = ids.shape[2] - 1
    covered = ids[image, row, run * length] >= 0
    for column in range(run * length, (run + 1) * length):
        right = covered
        if column < last_column:
            right = ids[image, row, column + 1] >= 0
        below = covered
        if row < last_row:
            below = ids[image, row + 1, column] >= 0
        if right != covered or below != covered:
            tiles[image, row // TILE, column // TILE] = 1
            if right != covered:
                tiles[image, row // TILE, (column + 1) // TILE] = 1
            if below != covered:
                tiles[image, (row + 1) // TILE, column // TILE] = 1
        covered = right


@wp.func
def touches_contour(
    a: wp.vec3,
    b: wp.vec3,
    c: wp.vec3,
    height: wp.int32,
    width: wp.int32,
    tiles: wp.array3d(dtype=wp.int32),
    image: wp.int32,
) -> wp.bool:
    """Whether a face reaches a marked tile: most do not, and no contour pair can be theirs."""
    box = centres_within(a, b, c, 0.0, height, width)
    if box.bottom < 1 or box.right < 1:
        return False
    # A pair that an edge crosses may start one pixel before the face's extent.
    for row in range(wp.max(box.top - 1, 0) // TILE, (box.bottom - 1) // TILE + 1):
        for column in range(wp.max(box.left - 1, 0) // TILE, (box.right - 1) // TILE + 1):
            if tiles[image, row, column] != 0:
                return True
    return False


@wp.kernel
def contour_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    tiles: wp.array3d(dtype=wp.int32),
    keys: wp.array4d(dtype=wp.int64),
):
    """Offer the crossings of a face's edges to contour pairs; one thread per face."""
    image, face = wp.tid()
    height = ids.shape[1]
    width = ids.shape[2]
    if not touches_contour(
        vertices[image, faces[face, 0]],
        vertices[image, faces[face, 1]],
        vertices[image, faces[face, 2]],
        height,
        width,
        tiles,
        image,
    ):
        return
    for corner in range(3):
        a = vertices[image, faces[face, corner]]
        b = vertices[image, faces[face, (corner + 1) % 3]]
        for axis in range(2):
            edge = edge_along(a, b, axis)
            lines = height
            cells = width
            if axis == 1:
                lines = width
                cells = height
            for line in range(first_centre(edge.start_v, lines), first_centre(edge.end_v, lines)):
                position = edge.start_u + (
                    (wp.float64(line) - edge.start_v) * (edge.end_u - edge.start_u)
                ) / (edge.end_v - edge.start_v)
                cell = first_centre(position, cells) - 1
                if cell >= 0 and cell < cells - 1:
                    row = line
                    column = cell
                    if axis == 1:
                        row = cell
                        column = line
                    first = ids[image, row, column] >= 0
                    second = ids[image, row + axis, column + 1 - axis] >= 0
                    if first != second:
                        distance = position - wp.float64(cell)
                        if first:
                            distance = wp.float64(cell + 1) - position
                        distance = wp.clamp(distance, wp.float64(0.0), wp.float64(1.0))
                        key = ordered_bits(wp.float32(distance)) << wp.int64(32)
                        wp.atomic_min(keys, image, axis, row, column, key | wp.int64(3 * face + corner))


@wp.func
def reach_of(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    contour: wp.array4d(dtype=wp.int32),
    image: wp.int32,
    axis: wp.int32,
    row: wp.int32,
    column: wp.int32,
) -> Reach:
    """Evaluate the contour pair that starts at a pixel."""
    result = Reach()
    edge = contour[image, axis, row, column]
    if edge < 0:
        return result
    result.first_covered = ids[image, row, column] >= 0
    result.tail = faces[edge // 3, edge % 3]
    result.head = faces[edge // 3, (edge % 3 + 1) % 3]
    a = vertices[image, result.tail]
    b = vertices[image, result.head]
    across = wp.abs(wp.float64(b[1 - axis]) - wp.float64(a[1 - axis]))
    along = wp.abs(wp.float64(b[axis]) - wp.float64(a[axis]))
    # Flat edges count along columns, all others along rows: each on one axis only.
    if along > across or (axis == 1 and along == across):
        return result
    result.found = True
    line = wp.float32(row)
    start = wp.float32(column)
    if axis == 1:
        line = wp.float32(column)
        start = wp.float32(row)
    extent = b[1 - axis] - a[1 - axis]
    step = b[axis] - a[axis]
    result.share = (line - a[1 - axis]) / extent
    result.slope = step / extent
    value = wp.clamp((a[axis] - start) + result.share * step - 0.5, -0.5, 0.5)
    if not result.first_covered:
        value = -value
    result.value = value
    return result


@wp.func
def received(reach: Reach, is_first: wp.bool) -> wp.float32:
    """What one pixel of a pair gains (uncovered) or loses (covered)."""
    if not reach.found:
        return 0.0
    if reach.first_covered == is_first:
        return wp.min(reach.value, 0.0)
    return wp.max(reach.value, 0.0)


@wp.kernel
def coverage_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    contour: wp.array4d(dtype=wp.int32),
    tiles: wp.array3d(dtype=wp.int32),
    side: wp.int32,
    values: wp.array3d(dtype=wp.float32),
):
    """Add to the mask what the four pairs of a pixel give or take; one thread per square of pixels."""
    image, down, along = wp.tid()
    if tiles[image, down * side // TILE, along * side // TILE] == 0:
        return
    for row in range(down * side, wp.min((down + 1) * side, ids.shape[1])):
        for column in range(along * side, wp.min((along + 1) * side, ids.shape[2])):
            value = values[image, row, column]
            for axis in range(2):
                value += received(reach_of(vertices, faces, ids, contour, image, axis, row, column), True)
                before_row = row - axis
                before_column = column - 1 + axis
                if before_row >= 0 and before_column >= 0:
                    reach = reach_of(vertices, faces, ids, contour, image, axis, before_row, before_column)
                    value += received(reach, False)
            values[image, row, column] = value


@wp.kernel
def coverage_backward_kernel(
    gradient: wp.array3d(dtype=wp.float32),
    unclamped: wp.array3d(dtype=wp.float32),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    contour: wp.array4d(dtype=wp.int32),
    tiles: wp.array3d(dtype=wp.int32),
    side: wp.int32,
    to_vertex: wp.array3d(dtype=wp.float32),
):
    """Gradients of the right and the lower pair of a pixel; one thread per square of pixels."""
    image, down, along = wp.tid()
    if tiles[image, down * side // TILE, along * side // TILE] == 0:
        return
    for row in range(down * side, wp.min((down + 1) * side, ids.shape[1])):
        for column in range(along * side, wp.min((along + 1) * side, ids.shape[2])):
            for axis in range(2):
                reach = reach_of(vertices, faces, ids, contour, image, axis, row, column)
                if reach.found:
                    changed_row = row
                    changed_column = column
                    if (reach.value < 0.0) != reach.first_covered:
                        changed_row = row + axis
                        changed_column = column + 1 - axis
                    weight = gradient[image, changed_row, changed_column]
                    value = unclamped[image, changed_row, changed_column]
                    if value < 0.0 or value > 1.0:
                        weight = 0.0
                    if not reach.first_covered:
                        weight = -weight
                    to_tail = weight * (1.0 - reach.share)
                    to_head = weight * reach.share
                    wp.atomic_add(to_vertex, image, reach.tail, axis, to_tail)
                    wp.atomic_add(to_vertex, image, reach.head, axis, to_head)
                    wp.atomic_add(to_vertex, image, reach.tail, 1 - axis, -to_tail * reach.slope)
                    wp.atomic_add(to_vertex, image, reach.head, 1 - axis, -to_head * reach.slope)


def coverage(vertices_px: Tensor, faces: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``silhouette._coverage``."""
    batch, height, width = ids.shape
    count, length = runs(width, ids.device)
    tiles = ids.new_zeros((batch, -(-height // TILE), -(-width // TILE)))
    keys = torch.full((batch, 2, height, width), EMPTY, dtype=torch.int64, device=ids.device)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()), ids)
    launch_images(tiles_kernel, (batch, height, count), ids, length, tiles)
    launch_images(contour_kernel, (batch, len(faces)), *mesh, tiles, keys)
    # The lower half of a key is the edge; that of the empty key is -1.
    contour = keys.to(torch.int32)
    values = (ids >= 0).to(vertices_px.dtype)
    squares, side = _squares(ids)
    launch_images(coverage_kernel, squares, *mesh, contour, tiles, side, values)
    return values.clamp(0, 1), values, contour, tiles


def coverage_backward(
    gradient: Tensor,
    unclamped: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    ids: Tensor,
    contour: Tensor,
    tiles: Tensor,
) -> Tensor:
    """Gradient of ``coverage`` for the vertices."""
    to_vertex = torch.zeros_like(vertices_px, memory_format=torch.contiguous_format)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()), ids, contour, tiles)
    squares, side = _squares(ids)
    launch_images(coverage_backward_kernel, squares, gradient, unclamped, *mesh, side, to_vertex)
    return to_vertex


def _squares(ids: Tensor) -> tuple[tuple[int, int, int], int]:
    """Thread grid over squares of pixels and their side: tiles on the CPU, single pixels on CUDA."""
    batch, height, width = ids.shape
    side = 1 if ids.is_cuda else TILE
    return (batch, -(-height // side), -(-width // side)), side
