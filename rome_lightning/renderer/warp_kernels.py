# Kernels are Warp's own language in Python's syntax, which mypy misreads.
# mypy: ignore-errors

"""Fused kernels in Warp: one source for CPU and CUDA, compiled at first use and cached by Warp.

Each function here has a torch counterpart with the same meaning; ids and contours are bit-equal to it.
Imported only where ``warp`` is installed, through ``acceleration.warp_kernels``. Floating-point
contraction is off: a fused multiply-add would round differently from torch.
"""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
import warp as wp
from torch import Tensor


def _start_quietly() -> None:
    """Initialise Warp without its banner and its lines per kernel module, from every process.

    Its native code also warns about a missing GPU driver, straight to file descriptor 2; on a machine
    without CUDA that is no news.
    """
    wp.config.log_level = wp.LOG_WARNING
    if torch.cuda.is_available():
        wp.init()
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


_start_quietly()
wp.set_module_options({"enable_backward": False, "fuse_fp": False, "fast_math": False})

EMPTY = torch.iinfo(torch.int64).max


class Points(NamedTuple):
    """A tensor whose last dimension is x, y, z, to be passed as vectors."""

    tensor: Tensor


@wp.struct
class Edge:
    """An edge with its upper end first, seen along one axis: u along the pair, v across it."""

    start_u: wp.float64
    start_v: wp.float64
    end_u: wp.float64
    end_v: wp.float64


@wp.struct
class Weights:
    """Barycentric weights at a pixel centre and their change per pixel."""

    value: wp.vec3
    along_x: wp.vec3
    along_y: wp.vec3


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


@wp.struct
class Nearest:
    """The point of a triangle's border nearest to the origin, and the sub-areas opposite to each corner."""

    squared: wp.float32
    inside: wp.bool
    edge: wp.int32
    share: wp.float32
    offset: wp.vec2
    parts: wp.vec3


@wp.func
def widen(point: wp.vec3) -> wp.vec3d:
    """A point in float64."""
    return wp.vec3d(wp.float64(point[0]), wp.float64(point[1]), wp.float64(point[2]))


@wp.func
def first_centre(position: wp.float64, size: wp.int32) -> wp.int32:
    """Smallest pixel centre that is not before a position, limited to the image."""
    limited = wp.clamp(position, wp.float64(0.0), wp.float64(size))
    # Truncation and a comparison: a call of the C library's ceil costs more than the rest of the loop.
    centre = wp.int32(limited)
    if wp.float64(centre) < limited:
        centre += 1
    return centre


@wp.func
def crossing(start: wp.vec3d, end: wp.vec3d, y: wp.float64) -> wp.float64:
    """Where an edge is at height y."""
    return start[0] + ((y - start[1]) * (end[0] - start[0])) / (end[1] - start[1])


@wp.func
def ordered_bits(depth: wp.float32) -> wp.int64:
    """Bits of a float32 as an integer in the same order."""
    bits = wp.cast(depth, wp.int32)
    return wp.int64(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@wp.kernel
def visibility_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    height: wp.int32,
    width: wp.int32,
    cull: wp.bool,
    keys: wp.array3d(dtype=wp.int64),
):
    """Offer every fragment of a face to its pixel; one thread per face."""
    image, face = wp.tid()
    a = widen(vertices[image, faces[face, 0]])
    b = widen(vertices[image, faces[face, 1]])
    c = widen(vertices[image, faces[face, 2]])
    top = first_centre(wp.min(wp.min(a[1], b[1]), c[1]), height)
    bottom = first_centre(wp.max(wp.max(a[1], b[1]), c[1]), height)
    if top >= bottom:
        return
    if first_centre(wp.min(wp.min(a[0], b[0]), c[0]), width) >= first_centre(
        wp.max(wp.max(a[0], b[0]), c[0]), width
    ):
        return
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if area == wp.float64(0.0) or (cull and area > wp.float64(0.0)):
        return
    if b[1] < a[1]:
        held = a
        a = b
        b = held
    if c[1] < b[1]:
        held = b
        b = c
        c = held
    if b[1] < a[1]:
        held = a
        a = b
        b = held
    along = b - a
    across = c - a
    area = along[0] * across[1] - across[0] * along[1]
    slope_x = (along[2] * across[1] - across[2] * along[1]) / area
    slope_y = (along[0] * across[2] - across[0] * along[2]) / area
    low = wp.min(wp.min(a[2], b[2]), c[2])
    high = wp.max(wp.max(a[2], b[2]), c[2])
    for row in range(top, bottom):
        y = wp.float64(row)
        one = crossing(a, c, y)
        other = crossing(b, c, y)
        if y < b[1]:
            other = crossing(a, b, y)
        for column in range(first_centre(wp.min(one, other), width), first_centre(wp.max(one, other), width)):
            depth = a[2] + ((wp.float64(column) - a[0]) * slope_x + (y - a[1]) * slope_y)
            depth = wp.min(wp.max(depth, low), high)
            key = (ordered_bits(wp.float32(depth)) << wp.int64(32)) | wp.int64(face)
            wp.atomic_min(keys, image, row, column, key)


@wp.kernel
def unpack_kernel(keys: wp.array1d(dtype=wp.int64), empty: wp.int64, ids: wp.array1d(dtype=wp.int32)):
    """Face of the winning fragment, one thread per pixel."""
    i = wp.tid()
    key = keys[i]
    if key == empty:
        ids[i] = -1
    else:
        ids[i] = wp.int32(key & wp.int64(0x7FFFFFFF))


@wp.func
def weights_at(a: wp.vec3, b: wp.vec3, c: wp.vec3, column: wp.int32, row: wp.int32) -> Weights:
    """Barycentric weights of a triangle at a pixel centre."""
    px = wp.float32(column)
    py = wp.float32(row)
    x = wp.vec3(a[0] - px, b[0] - px, c[0] - px)
    y = wp.vec3(a[1] - py, b[1] - py, c[1] - py)
    parts = wp.vec3(x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    area = parts[0] + parts[1] + parts[2]
    result = Weights()
    if area != 0.0:
        inverse = 1.0 / area
        result.along_x = wp.vec3(y[1] - y[2], y[2] - y[0], y[0] - y[1]) * inverse
        result.along_y = wp.vec3(x[2] - x[1], x[0] - x[2], x[1] - x[0]) * inverse
    if area < 0.0:
        parts = -parts
    parts = wp.vec3(wp.max(parts[0], 0.0), wp.max(parts[1], 0.0), wp.max(parts[2], 0.0))
    total = parts[0] + parts[1] + parts[2]
    if total > 0.0:
        result.value = parts / total
    return result


@wp.kernel
def interpolate_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    attributes: wp.array3d(dtype=wp.float32),
    attribute_faces: wp.array2d(dtype=wp.int32),
    values: wp.array4d(dtype=wp.float32),
):
    """Attributes at a pixel centre; one thread per pixel."""
    image, row, column = wp.tid()
    channels = attributes.shape[2]
    face = ids[wp.min(image, ids.shape[0] - 1), row, column]
    if face < 0:
        for channel in range(channels):
            values[image, channel, row, column] = 0.0
        return
    shared = wp.min(image, vertices.shape[0] - 1)
    weights = weights_at(
        vertices[shared, faces[face, 0]],
        vertices[shared, faces[face, 1]],
        vertices[shared, faces[face, 2]],
        column,
        row,
    ).value
    source = wp.min(image, attributes.shape[0] - 1)
    i = attribute_faces[face, 0]
    j = attribute_faces[face, 1]
    k = attribute_faces[face, 2]
    for channel in range(channels):
        values[image, channel, row, column] = (
            weights[0] * attributes[source, i, channel]
            + weights[1] * attributes[source, j, channel]
            + weights[2] * attributes[source, k, channel]
        )


@wp.kernel
def interpolate_backward_kernel(
    gradient: wp.array4d(dtype=wp.float32),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    attributes: wp.array3d(dtype=wp.float32),
    attribute_faces: wp.array2d(dtype=wp.int32),
    to_vertices: wp.bool,
    to_attributes: wp.bool,
    to_vertex: wp.array2d(dtype=wp.vec3),
    to_attribute: wp.array3d(dtype=wp.float32),
):
    """Gradients of a pixel for its corners; one thread per pixel."""
    image, row, column = wp.tid()
    face = ids[wp.min(image, ids.shape[0] - 1), row, column]
    if face < 0:
        return
    shared = wp.min(image, vertices.shape[0] - 1)
    source = wp.min(image, attributes.shape[0] - 1)
    weights = weights_at(
        vertices[shared, faces[face, 0]],
        vertices[shared, faces[face, 1]],
        vertices[shared, faces[face, 2]],
        column,
        row,
    )
    i = attribute_faces[face, 0]
    j = attribute_faces[face, 1]
    k = attribute_faces[face, 2]
    per_corner = wp.vec3()
    for channel in range(attributes.shape[2]):
        weight = gradient[image, channel, row, column]
        if to_attributes:
            wp.atomic_add(to_attribute, source, i, channel, weights.value[0] * weight)
            wp.atomic_add(to_attribute, source, j, channel, weights.value[1] * weight)
            wp.atomic_add(to_attribute, source, k, channel, weights.value[2] * weight)
        if to_vertices:
            per_corner += weight * wp.vec3(
                attributes[source, i, channel], attributes[source, j, channel], attributes[source, k, channel]
            )
    if to_vertices:
        step = wp.vec3(wp.dot(weights.along_x, per_corner), wp.dot(weights.along_y, per_corner), 0.0)
        for corner in range(3):
            wp.atomic_add(to_vertex, shared, faces[face, corner], -weights.value[corner] * step)


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


@wp.func
def may_touch_contour(
    a: wp.vec3, b: wp.vec3, c: wp.vec3, ids: wp.array3d(dtype=wp.int32), image: wp.int32
) -> wp.bool:
    """False only if all pixels around a face are covered, or none: most small faces leave here."""
    top = wp.max(first_centre(wp.float64(wp.min(wp.min(a[1], b[1]), c[1])), ids.shape[1]) - 1, 0)
    bottom = wp.min(
        first_centre(wp.float64(wp.max(wp.max(a[1], b[1]), c[1])), ids.shape[1]), ids.shape[1] - 1
    )
    left = wp.max(first_centre(wp.float64(wp.min(wp.min(a[0], b[0]), c[0])), ids.shape[2]) - 1, 0)
    right = wp.min(first_centre(wp.float64(wp.max(wp.max(a[0], b[0]), c[0])), ids.shape[2]), ids.shape[2] - 1)
    if (bottom - top + 1) * (right - left + 1) > 64:
        return True
    first = ids[image, top, left] >= 0
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            if (ids[image, row, column] >= 0) != first:
                return True
    return False


@wp.kernel
def contour_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    keys: wp.array4d(dtype=wp.int64),
):
    """Offer the crossings of a face's edges to contour pairs; one thread per face."""
    image, face = wp.tid()
    height = ids.shape[1]
    width = ids.shape[2]
    if not may_touch_contour(
        vertices[image, faces[face, 0]],
        vertices[image, faces[face, 1]],
        vertices[image, faces[face, 2]],
        ids,
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


@wp.kernel
def contour_unpack_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    keys: wp.array4d(dtype=wp.int64),
    empty: wp.int64,
    contour: wp.array4d(dtype=wp.int32),
):
    """Winning edge of each pair, if it counts along the pair's axis; one thread per pixel."""
    image, row, column = wp.tid()
    for axis in range(2):
        result = wp.int32(-1)
        key = keys[image, axis, row, column]
        if key != empty:
            edge = wp.int32(key & wp.int64(0x7FFFFFFF))
            a = vertices[image, faces[edge // 3, edge % 3]]
            b = vertices[image, faces[edge // 3, (edge % 3 + 1) % 3]]
            x = wp.abs(wp.float64(b[0]) - wp.float64(a[0]))
            y = wp.abs(wp.float64(b[1]) - wp.float64(a[1]))
            if (axis == 0 and y >= x) or (axis == 1 and x > y):
                result = edge
        contour[image, axis, row, column] = result


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
    result.found = True
    result.first_covered = ids[image, row, column] >= 0
    result.tail = faces[edge // 3, edge % 3]
    result.head = faces[edge // 3, (edge % 3 + 1) % 3]
    a = vertices[image, result.tail]
    b = vertices[image, result.head]
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
    values: wp.array3d(dtype=wp.float32),
):
    """Mask plus what the four pairs of a pixel give or take; one thread per pixel."""
    image, row, column = wp.tid()
    value = wp.float32(0.0)
    if ids[image, row, column] >= 0:
        value = 1.0
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
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    ids: wp.array3d(dtype=wp.int32),
    contour: wp.array4d(dtype=wp.int32),
    to_vertex: wp.array3d(dtype=wp.float32),
):
    """Gradients of a pixel's right and lower pair; one thread per pixel."""
    image, row, column = wp.tid()
    for axis in range(2):
        reach = reach_of(vertices, faces, ids, contour, image, axis, row, column)
        if reach.found:
            weight = wp.float32(0.0)
            if (reach.value < 0.0) == reach.first_covered:
                weight = gradient[image, row, column]
            else:
                weight = gradient[image, row + axis, column + 1 - axis]
            if not reach.first_covered:
                weight = -weight
            to_tail = weight * (1.0 - reach.share)
            to_head = weight * reach.share
            wp.atomic_add(to_vertex, image, reach.tail, axis, to_tail)
            wp.atomic_add(to_vertex, image, reach.head, axis, to_head)
            wp.atomic_add(to_vertex, image, reach.tail, 1 - axis, -to_tail * reach.slope)
            wp.atomic_add(to_vertex, image, reach.head, 1 - axis, -to_head * reach.slope)


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
    source: wp.array3d(dtype=wp.int64),
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
            source[image, row, column] = wp.int64(-1)
        else:
            site = sites[image, row, last]
            source[image, row, column] = wp.int64(nearest[image, row, site] * width + site)
            if column == starts[image, row, last]:
                last -= 1


@wp.func
def segment_share(a: wp.vec2, b: wp.vec2) -> wp.float32:
    """Where on the segment the point nearest to the origin lies, 0 at a, 1 at b."""
    along = b - a
    length = wp.dot(along, along)
    if length <= 0.0:
        return 0.0
    return wp.clamp(-wp.dot(a, along) / length, 0.0, 1.0)


@wp.func
def nearest_on_triangle(a: wp.vec2, b: wp.vec2, c: wp.vec2) -> Nearest:
    """Signed squared distance of the origin from a triangle's border, negative inside."""
    result = Nearest()
    tail = a
    head = b
    for edge in range(3):
        if edge == 1:
            tail = b
            head = c
        if edge == 2:
            tail = c
            head = a
        share = segment_share(tail, head)
        offset = tail + share * (head - tail)
        squared = wp.dot(offset, offset)
        if edge == 0 or squared < result.squared:
            result.squared = squared
            result.edge = edge
            result.share = share
            result.offset = offset
    first = a[0] * b[1] - a[1] * b[0]
    second = b[0] * c[1] - b[1] * c[0]
    third = c[0] * a[1] - c[1] * a[0]
    result.parts = wp.vec3(second, third, first)
    inside = first > 0.0 and second > 0.0 and third > 0.0
    result.inside = inside or (first < 0.0 and second < 0.0 and third < 0.0)
    return result


@wp.func
def flat(point: wp.vec3, column: wp.int32, row: wp.int32) -> wp.vec2:
    """Position in the image relative to a pixel centre."""
    return wp.vec2(point[0] - wp.float32(column), point[1] - wp.float32(row))


@wp.kernel
def soft_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    blur: wp.float32,
    by_depth: wp.bool,
    empty: wp.int64,
    keys: wp.array4d(dtype=wp.int64),
):
    """Keep the first faces within reach of each pixel, sorted by key; one thread per face.

    A fragment that pushes another out of its layer carries that one on to the next layer, which keeps
    the smallest keys whatever the order of the threads.

    Source: Liu et al., FreePipe: a programmable parallel rendering architecture, 2010.
    """
    image, face = wp.tid()
    layers = keys.shape[1]
    height = keys.shape[2]
    width = keys.shape[3]
    a = vertices[image, faces[face, 0]]
    b = vertices[image, faces[face, 1]]
    c = vertices[image, faces[face, 2]]
    if (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]) == 0.0:
        return
    radius = wp.sqrt(blur)
    top = first_centre(wp.float64(wp.min(wp.min(a[1], b[1]), c[1]) - radius), height)
    bottom = first_centre(wp.float64(wp.max(wp.max(a[1], b[1]), c[1]) + radius), height)
    left = first_centre(wp.float64(wp.min(wp.min(a[0], b[0]), c[0]) - radius), width)
    right = first_centre(wp.float64(wp.max(wp.max(a[0], b[0]), c[0]) + radius), width)
    for row in range(top, bottom):
        for column in range(left, right):
            nearest = nearest_on_triangle(flat(a, column, row), flat(b, column, row), flat(c, column, row))
            if nearest.inside or nearest.squared < blur:
                rank = nearest.squared
                if by_depth:
                    rank = clipped_depth(a, b, c, nearest.parts)
                elif nearest.inside:
                    rank = -rank
                key = (ordered_bits(rank) << wp.int64(32)) | wp.int64(face)
                layer = wp.int32(0)
                if key >= keys[image, layers - 1, row, column]:
                    layer = layers
                while layer < layers:
                    old = wp.atomic_min(keys, image, layer, row, column, key)
                    if old == empty:
                        layer = layers
                    key = wp.max(old, key)
                    layer += 1


@wp.func
def clipped_depth(a: wp.vec3, b: wp.vec3, c: wp.vec3, parts: wp.vec3) -> wp.float32:
    """Depth with weights clipped to the triangle."""
    if parts[0] + parts[1] + parts[2] < 0.0:
        parts = -parts
    parts = wp.vec3(wp.max(parts[0], 0.0), wp.max(parts[1], 0.0), wp.max(parts[2], 0.0))
    total = parts[0] + parts[1] + parts[2]
    return (parts[0] * a[2] + parts[1] * b[2] + parts[2] * c[2]) / total


@wp.func
def leaving(squared: wp.float32, inside: wp.bool, sigma: wp.float32) -> wp.float32:
    """Probability that a pixel is not covered by a face."""
    ratio = squared / sigma
    if inside:
        ratio = -ratio
    return 1.0 / (1.0 + wp.exp(-ratio))


@wp.kernel
def soft_alpha_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    layers: wp.array4d(dtype=wp.int32),
    sigma: wp.float32,
    uncovered: wp.array3d(dtype=wp.float32),
):
    """Probability that none of a pixel's faces covers it; one thread per pixel."""
    image, row, column = wp.tid()
    product = wp.float32(1.0)
    for layer in range(layers.shape[1]):
        face = layers[image, layer, row, column]
        if face >= 0:
            nearest = nearest_on_triangle(
                flat(vertices[image, faces[face, 0]], column, row),
                flat(vertices[image, faces[face, 1]], column, row),
                flat(vertices[image, faces[face, 2]], column, row),
            )
            product *= leaving(nearest.squared, nearest.inside, sigma)
    uncovered[image, row, column] = product


@wp.kernel
def soft_alpha_backward_kernel(
    gradient: wp.array3d(dtype=wp.float32),
    uncovered: wp.array3d(dtype=wp.float32),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    layers: wp.array4d(dtype=wp.int32),
    sigma: wp.float32,
    to_vertex: wp.array2d(dtype=wp.vec3),
):
    """Gradient of ``soft_alpha_kernel`` for the ends of the nearest edge of each face."""
    image, row, column = wp.tid()
    weight = gradient[image, row, column] * uncovered[image, row, column] / sigma
    if weight == 0.0:
        return
    for layer in range(layers.shape[1]):
        face = layers[image, layer, row, column]
        if face >= 0:
            nearest = nearest_on_triangle(
                flat(vertices[image, faces[face, 0]], column, row),
                flat(vertices[image, faces[face, 1]], column, row),
                flat(vertices[image, faces[face, 2]], column, row),
            )
            slope = weight * (1.0 - leaving(nearest.squared, nearest.inside, sigma))
            if nearest.inside:
                slope = -slope
            step = wp.vec3(nearest.offset[0], nearest.offset[1], 0.0) * (2.0 * slope)
            tail = faces[face, nearest.edge]
            head = faces[face, (nearest.edge + 1) % 3]
            wp.atomic_add(to_vertex, image, tail, step * (1.0 - nearest.share))
            wp.atomic_add(to_vertex, image, head, step * nearest.share)


@wp.kernel
def carry_kernel(
    values: wp.array3d(dtype=wp.float32),
    source: wp.array2d(dtype=wp.int64),
    threads: wp.int32,
    carried: wp.array3d(dtype=wp.float32),
):
    """Value of the source pixel, 0 without one; a plane is shared among some threads."""
    image, channel, thread = wp.tid()
    for pixel in range(thread, source.shape[1], threads):
        index = wp.int32(source[image, pixel])
        if index < 0:
            carried[image, channel, pixel] = 0.0
        else:
            carried[image, channel, pixel] = values[image, channel, index]


@wp.kernel
def carry_backward_kernel(
    gradient: wp.array3d(dtype=wp.float32),
    source: wp.array2d(dtype=wp.int64),
    threads: wp.int32,
    to_values: wp.array3d(dtype=wp.float32),
):
    """Gradient of a pixel for its source; a plane is shared among some threads."""
    image, channel, thread = wp.tid()
    for pixel in range(thread, source.shape[1], threads):
        index = wp.int32(source[image, pixel])
        if index >= 0:
            wp.atomic_add(to_values, image, channel, index, gradient[image, channel, pixel])


def face_ids(vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool) -> Tensor:
    """See ``torch_visibility.visible_faces``."""
    batch = len(vertices_px)
    keys = torch.full((batch, height, width), EMPTY, dtype=torch.int64, device=vertices_px.device)
    ids = torch.empty((batch, height, width), dtype=torch.int32, device=vertices_px.device)
    mesh = (Points(vertices_px.contiguous()), faces.int())
    _launch(visibility_kernel, (batch, len(faces)), *mesh, height, width, cull_backfaces, keys)
    _launch(unpack_kernel, (ids.numel(),), keys.view(-1), EMPTY, ids.view(-1))
    return ids


def interpolate(
    vertices_px: Tensor, faces: Tensor, ids: Tensor, attributes: Tensor, attribute_faces: Tensor
) -> Tensor:
    """See ``interpolation.interpolate``."""
    batch = max(len(vertices_px), len(ids), len(attributes))
    values = attributes.new_empty((batch, attributes.shape[2], *ids.shape[1:]))
    mesh = (Points(vertices_px.contiguous()), faces.int(), ids)
    source = (attributes, attribute_faces.int())
    _launch(interpolate_kernel, (batch, *ids.shape[1:]), *mesh, *source, values)
    return values


def interpolate_backward(
    gradient: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    ids: Tensor,
    attributes: Tensor,
    attribute_faces: Tensor,
    to_vertices: bool,
    to_attributes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``interpolate``; one that nobody asked for has no elements."""
    to_vertex = vertices_px.new_zeros(vertices_px.shape if to_vertices else (0, 0, 3))
    to_attribute = attributes.new_zeros(attributes.shape if to_attributes else (0, 0, 0))
    mesh = (Points(vertices_px.contiguous()), faces.int(), ids)
    source = (attributes, attribute_faces.int())
    outputs = (to_vertices, to_attributes, Points(to_vertex), to_attribute)
    size = (len(gradient), *ids.shape[1:])
    _launch(interpolate_backward_kernel, size, gradient, *mesh, *source, *outputs)
    return to_vertex, to_attribute


def contour(vertices_px: Tensor, faces: Tensor, ids: Tensor) -> Tensor:
    """See ``silhouette._contour``."""
    batch, height, width = ids.shape
    keys = torch.full((batch, 2, height, width), EMPTY, dtype=torch.int64, device=ids.device)
    edges = torch.empty((batch, 2, height, width), dtype=torch.int32, device=ids.device)
    mesh = (Points(vertices_px.contiguous()), faces.int())
    _launch(contour_kernel, (batch, len(faces)), *mesh, ids, keys)
    _launch(contour_unpack_kernel, ids.shape, *mesh, keys, EMPTY, edges)
    return edges


def coverage(vertices_px: Tensor, faces: Tensor, ids: Tensor, edges: Tensor) -> Tensor:
    """See ``silhouette.coverage``; not yet clamped."""
    values = vertices_px.new_empty(ids.shape)
    mesh = (Points(vertices_px.contiguous()), faces.int(), ids, edges)
    _launch(coverage_kernel, ids.shape, *mesh, values)
    return values


def coverage_backward(
    gradient: Tensor, vertices_px: Tensor, faces: Tensor, ids: Tensor, edges: Tensor
) -> Tensor:
    """Gradient of ``coverage`` for the vertices."""
    to_vertex = torch.zeros_like(vertices_px)
    mesh = (Points(vertices_px.contiguous()), faces.int(), ids, edges)
    _launch(coverage_backward_kernel, ids.shape, gradient, *mesh, to_vertex)
    return to_vertex


def soft_layers(
    vertices_px: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    blur: float,
    num_layers: int,
    by_depth: bool,
) -> Tensor:
    """See ``soft._layers``."""
    size = (len(vertices_px), num_layers, height, width)
    keys = torch.full(size, EMPTY, dtype=torch.int64, device=vertices_px.device)
    layers = torch.empty(size, dtype=torch.int32, device=vertices_px.device)
    mesh = (Points(vertices_px.contiguous()), faces.int())
    _launch(soft_kernel, (len(vertices_px), len(faces)), *mesh, blur, by_depth, EMPTY, keys)
    _launch(unpack_kernel, (keys.numel(),), keys.view(-1), EMPTY, layers.view(-1))
    return layers


def soft_uncovered(vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float) -> Tensor:
    """See ``soft._uncovered``."""
    batch, _, height, width = layers.shape
    uncovered = vertices_px.new_empty((batch, height, width))
    mesh = (Points(vertices_px.contiguous()), faces.int())
    _launch(soft_alpha_kernel, uncovered.shape, *mesh, layers, sigma, uncovered)
    return uncovered


def soft_uncovered_backward(
    gradient: Tensor, uncovered: Tensor, vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float
) -> Tensor:
    """Gradient of ``soft_uncovered`` for the vertices."""
    to_vertex = torch.zeros_like(vertices_px, memory_format=torch.contiguous_format)
    inputs = (gradient, uncovered, Points(vertices_px.contiguous()), faces.int(), layers, sigma)
    _launch(soft_alpha_backward_kernel, uncovered.shape, *inputs, Points(to_vertex))
    return to_vertex


def nearest_covered(mask: Tensor) -> Tensor:
    """See ``extension.extend_outside``."""
    batch, height, width = mask.shape
    nearest, sites, starts = torch.empty((3, *mask.shape), dtype=torch.int32, device=mask.device)
    source = torch.empty(mask.shape, dtype=torch.int64, device=mask.device)
    _launch(nearest_row_kernel, (batch, width), mask, nearest)
    _launch(nearest_column_kernel, (batch, height), nearest, sites, starts, source)
    return source


def carry(values: Tensor, source: Tensor) -> Tensor:
    """Values (b, c, n) of the source pixels (b, n); 0 where the source is -1."""
    carried = torch.empty_like(values)
    threads = _threads_per_plane(source)
    _launch(carry_kernel, (*values.shape[:2], threads), values, source, threads, carried)
    return carried


def carry_backward(gradient: Tensor, source: Tensor) -> Tensor:
    """Gradient of ``carry`` for the values."""
    to_values = torch.zeros_like(gradient)
    threads = _threads_per_plane(source)
    _launch(carry_backward_kernel, (*gradient.shape[:2], threads), gradient, source, threads, to_values)
    return to_values


def _threads_per_plane(source: Tensor) -> int:
    """One on the CPU, where a loop is faster than threads that run one after another."""
    return source.shape[1] if source.is_cuda else 1


def _launch(kernel: wp.Kernel, size: Sequence[int], *arguments: object) -> None:
    """Launch on the device of the tensors, on torch's current stream there.

    ``arguments`` keeps temporary tensors alive until the launch, because Warp sees their addresses only.
    """
    device = next(item.device for item in arguments if isinstance(item, Tensor))
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    inputs = [_shared(item) for item in arguments]
    wp.launch(kernel, dim=tuple(size), inputs=inputs, device=wp.device_from_torch(device), stream=stream)


def _shared(item: object) -> object:
    """Give Warp the memory of contiguous tensors; other arguments pass."""
    if isinstance(item, Points):
        return wp.from_torch(item.tensor, dtype=wp.vec3, requires_grad=False, return_ctype=True)
    if isinstance(item, Tensor):
        return wp.from_torch(item, requires_grad=False, return_ctype=True)
    return item
