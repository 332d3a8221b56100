"""Kernels of ``soft``."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import torch
import warp as wp
from torch import Tensor

from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images, runs
from rome_lightning.renderer.kernels.pixels import centres_within, ordered_bits

wp.set_module_options(OPTIONS)

EMPTY = torch.iinfo(torch.int64).max
"""Key of a layer that no face has reached."""


@wp.struct
class Sides:
    """The three sides of a triangle, one in each component: a to b, b to c, c to a."""

    along_x: wp.vec3
    along_y: wp.vec3
    inverse: wp.vec3
    """One over the squared length; 0 for a side without length."""


@wp.struct
class Nearest:
    """The point of a triangle's border nearest to a pixel centre."""

    squared: wp.float32
    inside: wp.bool
    edge: wp.int32
    share: wp.float32
    offset: wp.vec2
    """From the pixel centre."""
    parts: wp.vec3
    """Twice the areas that each side spans with the pixel centre."""


@wp.func
def inverse_or_zero(length: wp.float32) -> wp.float32:
    """One over a length, 0 for 0."""
    if length > 0.0:
        return 1.0 / length
    return 0.0


@wp.func
def sides_of(a: wp.vec3, b: wp.vec3, c: wp.vec3) -> Sides:
    """What all pixels near a triangle share."""
    result = Sides()
    result.along_x = wp.vec3(b[0] - a[0], c[0] - b[0], a[0] - c[0])
    result.along_y = wp.vec3(b[1] - a[1], c[1] - b[1], a[1] - c[1])
    length = wp.cw_mul(result.along_x, result.along_x) + wp.cw_mul(result.along_y, result.along_y)
    result.inverse = wp.vec3(
        inverse_or_zero(length[0]), inverse_or_zero(length[1]), inverse_or_zero(length[2])
    )
    return result


@wp.func
def nearest_on_border(
    a: wp.vec3, b: wp.vec3, c: wp.vec3, sides: Sides, column: wp.int32, row: wp.int32
) -> Nearest:
    """Signed squared distance of a pixel centre from a triangle's border, negative inside."""
    px = wp.float32(column)
    py = wp.float32(row)
    x = wp.vec3(a[0] - px, b[0] - px, c[0] - px)
    y = wp.vec3(a[1] - py, b[1] - py, c[1] - py)
    share = -wp.cw_mul(wp.cw_mul(x, sides.along_x) + wp.cw_mul(y, sides.along_y), sides.inverse)
    share = wp.min(wp.max(share, wp.vec3(0.0, 0.0, 0.0)), wp.vec3(1.0, 1.0, 1.0))
    offset_x = x + wp.cw_mul(share, sides.along_x)
    offset_y = y + wp.cw_mul(share, sides.along_y)
    squared = wp.cw_mul(offset_x, offset_x) + wp.cw_mul(offset_y, offset_y)
    edge = wp.int32(0)
    if squared[1] < squared[0]:
        edge = 1
    if squared[2] < squared[edge]:
        edge = 2
    result = Nearest()
    result.edge = edge
    result.squared = squared[edge]
    result.share = share[edge]
    result.offset = wp.vec2(offset_x[edge], offset_y[edge])
    next_x = wp.vec3(x[1], x[2], x[0])
    next_y = wp.vec3(y[1], y[2], y[0])
    result.parts = wp.cw_mul(x, next_y) - wp.cw_mul(next_x, y)
    lowest = wp.min(wp.min(result.parts[0], result.parts[1]), result.parts[2])
    highest = wp.max(wp.max(result.parts[0], result.parts[1]), result.parts[2])
    result.inside = lowest > 0.0 or highest < 0.0
    return result


@wp.kernel
def soft_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    blur: wp.float32,
    by_depth: wp.bool,
    epsilon: wp.float32,
    shift: wp.float32,
    height: wp.int32,
    width: wp.int32,
    empty: wp.int64,
    keys: wp.array3d(dtype=wp.int64),
):
    """Keep the first faces within reach of each pixel, sorted by key; one thread per face.

    A fragment that pushes another out of its layer carries that one on to the next layer, which keeps
    the smallest keys whatever the order of the threads.

    Source: Liu et al., FreePipe: a programmable parallel rendering architecture, 2010.
    """
    image, face = wp.tid()
    layers = keys.shape[2]
    a = vertices[image, faces[face, 0]]
    b = vertices[image, faces[face, 1]]
    c = vertices[image, faces[face, 2]]
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if wp.abs(area) <= epsilon:
        return
    box = centres_within(a, b, c, wp.sqrt(blur), height, width)
    sides = sides_of(a, b, c)
    for row in range(box.top, box.bottom):
        for column in range(box.left, box.right):
            nearest = nearest_on_border(a, b, c, sides, column, row)
            rank = nearest.squared
            within = nearest.inside or nearest.squared < blur
            if by_depth and epsilon > 0.0:
                rank = extrapolated_depth(a, b, c, nearest.parts, area + epsilon, shift)
                within = within and rank >= 0.0
            elif by_depth:
                rank = clipped_depth(a, b, c, nearest.parts)
            elif nearest.inside:
                rank = -rank
            if within:
                key = (ordered_bits(rank) << wp.int64(32)) | wp.int64(face)
                pixel = row * width + column
                layer = wp.int32(0)
                if key >= keys[image, pixel, layers - 1]:
                    layer = layers
                while layer < layers:
                    # Keys only ever fall: one that is not larger now can be passed.
                    if key < keys[image, pixel, layer]:
                        old = wp.atomic_min(keys, image, pixel, layer, key)
                        key = wp.max(old, key)
                        if old == empty:
                            layer = layers
                    layer += 1


@wp.func
def clipped_depth(a: wp.vec3, b: wp.vec3, c: wp.vec3, parts: wp.vec3) -> wp.float32:
    """Depth with weights clipped to the triangle; the parts are the areas of the sides from a, b and c."""
    if parts[0] + parts[1] + parts[2] < 0.0:
        parts = -parts
    parts = wp.vec3(wp.max(parts[0], 0.0), wp.max(parts[1], 0.0), wp.max(parts[2], 0.0))
    total = parts[0] + parts[1] + parts[2]
    return (parts[1] * a[2] + parts[2] * b[2] + parts[0] * c[2]) / total


@wp.func
def extrapolated_depth(
    a: wp.vec3, b: wp.vec3, c: wp.vec3, parts: wp.vec3, total: wp.float32, shift: wp.float32
) -> wp.float32:
    """Depth of the triangle's plane as PyTorch3D gives it; the parts are as in ``clipped_depth``."""
    depth = (parts[1] / total) * (a[2] + shift) + (parts[2] / total) * (b[2] + shift)
    return depth + (parts[0] / total) * (c[2] + shift)


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
    length: wp.int32,
    uncovered: wp.array3d(dtype=wp.float32),
):
    """Probability that none of a pixel's faces covers it; one thread per run of pixels."""
    image, row, run = wp.tid()
    for column in range(run * length, (run + 1) * length):
        product = wp.float32(1.0)
        layer = wp.int32(0)
        while layer < layers.shape[3]:
            face = layers[image, row, column, layer]
            if face < 0:
                layer = layers.shape[3]
            else:
                a = vertices[image, faces[face, 0]]
                b = vertices[image, faces[face, 1]]
                c = vertices[image, faces[face, 2]]
                nearest = nearest_on_border(a, b, c, sides_of(a, b, c), column, row)
                product *= leaving(nearest.squared, nearest.inside, sigma)
            layer += 1
        uncovered[image, row, column] = product


@wp.kernel
def soft_alpha_backward_kernel(
    gradient: wp.array3d(dtype=wp.float32),
    uncovered: wp.array3d(dtype=wp.float32),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    layers: wp.array4d(dtype=wp.int32),
    sigma: wp.float32,
    length: wp.int32,
    to_vertex: wp.array2d(dtype=wp.vec3),
):
    """Gradient of ``soft_alpha_kernel`` for the ends of the nearest side of each face."""
    image, row, run = wp.tid()
    for column in range(run * length, (run + 1) * length):
        weight = gradient[image, row, column] * uncovered[image, row, column] / sigma
        layer = wp.int32(0)
        if weight == 0.0:
            layer = layers.shape[3]
        while layer < layers.shape[3]:
            face = layers[image, row, column, layer]
            if face < 0:
                layer = layers.shape[3]
            else:
                a = vertices[image, faces[face, 0]]
                b = vertices[image, faces[face, 1]]
                c = vertices[image, faces[face, 2]]
                nearest = nearest_on_border(a, b, c, sides_of(a, b, c), column, row)
                slope = weight * (1.0 - leaving(nearest.squared, nearest.inside, sigma))
                if nearest.inside:
                    slope = -slope
                step = wp.vec3(nearest.offset[0], nearest.offset[1], 0.0) * (2.0 * slope)
                tail = faces[face, nearest.edge]
                head = faces[face, (nearest.edge + 1) % 3]
                wp.atomic_add(to_vertex, image, tail, step * (1.0 - nearest.share))
                wp.atomic_add(to_vertex, image, head, step * nearest.share)
            layer += 1


def soft_layers(
    vertices_px: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    blur: float,
    num_layers: int,
    by_depth: bool,
    epsilon: float,
    shift: float,
) -> Tensor:
    """See ``soft._layers``."""
    batch = len(vertices_px)
    keys = vertices_px.new_full((batch, height, width, num_layers), EMPTY, dtype=torch.int64)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()))
    settings = (blur, by_depth, epsilon, shift, height, width, EMPTY)
    launch_images(soft_kernel, (batch, len(faces)), *mesh, *settings, keys.flatten(1, 2))
    # The lower half of a key is the face; that of the empty key is -1.
    return keys.to(torch.int32)


def soft_uncovered(vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float) -> Tensor:
    """See ``soft._uncovered``."""
    uncovered = vertices_px.new_empty(layers.shape[:3])
    count, length = runs(layers.shape[2], layers.device)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()))
    size = (*layers.shape[:2], count)
    launch_images(soft_alpha_kernel, size, *mesh, layers, sigma, length, uncovered)
    return uncovered


def soft_uncovered_backward(
    gradient: Tensor, uncovered: Tensor, vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float
) -> Tensor:
    """Gradient of ``soft_uncovered`` for the vertices."""
    to_vertex = torch.zeros_like(vertices_px, memory_format=torch.contiguous_format)
    count, length = runs(layers.shape[2], layers.device)
    inputs = (
        gradient,
        uncovered,
        Vectors(vertices_px.contiguous()),
        Shared(faces.int()),
        layers,
        sigma,
        length,
    )
    size = (*layers.shape[:2], count)
    launch_images(soft_alpha_backward_kernel, size, *inputs, Vectors(to_vertex))
    return to_vertex
