"""Kernels of ``soft``."""
# Kernels are Warp's own language in Python's syntax, which mypy misreads.
# mypy: ignore-errors

import torch
import warp as wp
from torch import Tensor

from rome_lightning.renderer.kernels.launch import OPTIONS, Vectors, launch
from rome_lightning.renderer.kernels.pixels import first_centre, ordered_bits

wp.set_module_options(OPTIONS)

EMPTY = torch.iinfo(torch.int64).max
"""Key of a layer that no face has reached."""


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
    mesh = (Vectors(vertices_px.contiguous()), faces.int())
    launch(soft_kernel, (len(vertices_px), len(faces)), *mesh, blur, by_depth, EMPTY, keys)
    # The lower half of a key is the face; that of the empty key is -1.
    return keys.to(torch.int32)


def soft_uncovered(vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float) -> Tensor:
    """See ``soft._uncovered``."""
    batch, _, height, width = layers.shape
    uncovered = vertices_px.new_empty((batch, height, width))
    mesh = (Vectors(vertices_px.contiguous()), faces.int())
    launch(soft_alpha_kernel, uncovered.shape, *mesh, layers, sigma, uncovered)
    return uncovered


def soft_uncovered_backward(
    gradient: Tensor, uncovered: Tensor, vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float
) -> Tensor:
    """Gradient of ``soft_uncovered`` for the vertices."""
    to_vertex = torch.zeros_like(vertices_px, memory_format=torch.contiguous_format)
    inputs = (gradient, uncovered, Vectors(vertices_px.contiguous()), faces.int(), layers, sigma)
    launch(soft_alpha_backward_kernel, uncovered.shape, *inputs, Vectors(to_vertex))
    return to_vertex
