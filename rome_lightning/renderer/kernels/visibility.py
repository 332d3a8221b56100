"""Kernels of ``torch_visibility``."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import torch
import warp as wp
from torch import Tensor

from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images
from rome_lightning.renderer.kernels.pixels import centres_within, first_centre, ordered_bits

wp.set_module_options(OPTIONS)

EMPTY = torch.iinfo(torch.int64).max
"""Key of a pixel that no fragment covers."""


@wp.func
def widen(point: wp.vec3) -> wp.vec3d:
    """A point in float64."""
    return wp.vec3d(wp.float64(point[0]), wp.float64(point[1]), wp.float64(point[2]))


@wp.func
def crossing(start: wp.vec3d, end: wp.vec3d, y: wp.float64) -> wp.float64:
    """Where an edge is at height y."""
    return start[0] + ((y - start[1]) * (end[0] - start[0])) / (end[1] - start[1])


@wp.kernel
def visibility_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    height: wp.int32,
    width: wp.int32,
    cull: wp.bool,
    keys: wp.array2d(dtype=wp.int64),
):
    """Offer every fragment of a face to its pixel; one thread per face."""
    image, face = wp.tid()
    first = vertices[image, faces[face, 0]]
    second = vertices[image, faces[face, 1]]
    third = vertices[image, faces[face, 2]]
    box = centres_within(first, second, third, 0.0, height, width)
    if box.top >= box.bottom or box.left >= box.right:
        return
    a = widen(first)
    b = widen(second)
    c = widen(third)
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
    for row in range(box.top, box.bottom):
        y = wp.float64(row)
        line = row * width
        one = crossing(a, c, y)
        other = crossing(b, c, y)
        if y < b[1]:
            other = crossing(a, b, y)
        for column in range(first_centre(wp.min(one, other), width), first_centre(wp.max(one, other), width)):
            depth = a[2] + ((wp.float64(column) - a[0]) * slope_x + (y - a[1]) * slope_y)
            depth = wp.min(wp.max(depth, low), high)
            key = (ordered_bits(wp.float32(depth)) << wp.int64(32)) | wp.int64(face)
            wp.atomic_min(keys, image, line + column, key)


def face_ids(vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool) -> Tensor:
    """See ``torch_visibility.visible_faces``."""
    batch = len(vertices_px)
    keys = torch.full((batch, height, width), EMPTY, dtype=torch.int64, device=vertices_px.device)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()))
    launch_images(
        visibility_kernel, (batch, len(faces)), *mesh, height, width, cull_backfaces, keys.flatten(1)
    )
    # The lower half of a key is the face; that of the empty key is -1.
    return keys.to(torch.int32)
