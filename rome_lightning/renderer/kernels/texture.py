"""Kernels of ``texture.render_texture``: interpolated texture coordinates and bilinear lookup in one pass."""
# Kernels are Warp's own language in Python's syntax, which mypy misreads.
# mypy: ignore-errors

import functools
from typing import NamedTuple

import warp as wp
from torch import Tensor

from rome_lightning.renderer.kernels.barycentric import weights_at
from rome_lightning.renderer.kernels.channels import channel_parts
from rome_lightning.renderer.kernels.launch import OPTIONS, Vectors, launch, runs


@wp.struct
class Texels:
    """The four texels around a point: the first column and row, how far beyond them, and what moves."""

    left: wp.int32
    top: wp.int32
    right: wp.int32
    bottom: wp.int32
    x: wp.float32
    y: wp.float32
    moves_x: wp.float32
    moves_y: wp.float32


@wp.func
def limited(position: wp.float32, size: wp.int32) -> wp.float32:
    """A position in texels, held within the centres of the first and the last one."""
    return wp.clamp(position, 0.0, wp.float32(size - 1))


@wp.func
def texels_at(u: wp.float32, v: wp.float32, width: wp.int32, height: wp.int32) -> Texels:
    """Where texture coordinates lie, with the border repeated outside."""
    along = u * wp.float32(width) - 0.5
    down = v * wp.float32(height) - 0.5
    x = limited(along, width)
    y = limited(down, height)
    result = Texels()
    result.left = wp.int32(x)
    result.top = wp.int32(y)
    result.right = wp.min(result.left + 1, width - 1)
    result.bottom = wp.min(result.top + 1, height - 1)
    result.x = x - wp.float32(result.left)
    result.y = y - wp.float32(result.top)
    if along > 0.0 and along < wp.float32(width - 1):
        result.moves_x = wp.float32(width)
    if down > 0.0 and down < wp.float32(height - 1):
        result.moves_y = wp.float32(height)
    return result


class _Kernels(NamedTuple):
    forward: wp.Kernel
    backward: wp.Kernel


@functools.cache
def _kernels(num_channels: int) -> _Kernels:
    """Kernels for textures of a number of channels, compiled when they are first used."""
    vector = wp.types.vector(length=num_channels, dtype=wp.float32)

    @wp.kernel(module="unique", module_options=OPTIONS)
    def render_texture_kernel(
        vertices: wp.array2d(dtype=wp.vec3),
        faces: wp.array2d(dtype=wp.int32),
        ids: wp.array3d(dtype=wp.int32),
        uvs: wp.array1d(dtype=wp.vec2),
        uv_faces: wp.array2d(dtype=wp.int32),
        texture: wp.array3d(dtype=vector),
        length: wp.int32,
        values: wp.array3d(dtype=vector),
    ):
        """Texture at pixel centres; one thread per run of pixels."""
        image, row, run = wp.tid()
        source = wp.min(image, texture.shape[0] - 1)
        a = wp.vec3()
        b = wp.vec3()
        c = wp.vec3()
        uv_a = wp.vec2()
        uv_b = wp.vec2()
        uv_c = wp.vec2()
        current = wp.int32(-1)
        for column in range(run * length, (run + 1) * length):
            face = ids[image, row, column]
            value = vector()
            if face >= 0:
                if face != current:
                    current = face
                    a = vertices[image, faces[face, 0]]
                    b = vertices[image, faces[face, 1]]
                    c = vertices[image, faces[face, 2]]
                    uv_a = uvs[uv_faces[face, 0]]
                    uv_b = uvs[uv_faces[face, 1]]
                    uv_c = uvs[uv_faces[face, 2]]
                weights = weights_at(a, b, c, column, row).value
                uv = weights[0] * uv_a + weights[1] * uv_b + weights[2] * uv_c
                at = texels_at(uv[0], uv[1], texture.shape[2], texture.shape[1])
                above = (1.0 - at.x) * texture[source, at.top, at.left] + at.x * texture[
                    source, at.top, at.right
                ]
                below = (1.0 - at.x) * texture[source, at.bottom, at.left] + at.x * texture[
                    source, at.bottom, at.right
                ]
                value = (1.0 - at.y) * above + at.y * below
            values[image, row, column] = value

    @wp.kernel(module="unique", module_options=OPTIONS)
    def render_texture_backward_kernel(
        gradient: wp.array3d(dtype=vector),
        vertices: wp.array2d(dtype=wp.vec3),
        faces: wp.array2d(dtype=wp.int32),
        ids: wp.array3d(dtype=wp.int32),
        uvs: wp.array1d(dtype=wp.vec2),
        uv_faces: wp.array2d(dtype=wp.int32),
        texture: wp.array3d(dtype=vector),
        length: wp.int32,
        to_vertices: wp.bool,
        to_textures: wp.bool,
        to_vertex: wp.array2d(dtype=wp.vec3),
        to_texture: wp.array3d(dtype=vector),
    ):
        """Gradients for the texels and for the corners of each face, those summed over a run of pixels."""
        image, row, run = wp.tid()
        source = wp.min(image, texture.shape[0] - 1)
        a = wp.vec3()
        b = wp.vec3()
        c = wp.vec3()
        uv_a = wp.vec2()
        uv_b = wp.vec2()
        uv_c = wp.vec2()
        move_a = wp.vec3()
        move_b = wp.vec3()
        move_c = wp.vec3()
        current = wp.int32(-1)
        end = (run + 1) * length
        for column in range(run * length, end + 1):
            face = wp.int32(-1)
            if column < end:
                face = ids[image, row, column]
            if face != current:
                if current >= 0 and to_vertices:
                    wp.atomic_add(to_vertex, image, faces[current, 0], move_a)
                    wp.atomic_add(to_vertex, image, faces[current, 1], move_b)
                    wp.atomic_add(to_vertex, image, faces[current, 2], move_c)
                current = face
                if face >= 0:
                    a = vertices[image, faces[face, 0]]
                    b = vertices[image, faces[face, 1]]
                    c = vertices[image, faces[face, 2]]
                    uv_a = uvs[uv_faces[face, 0]]
                    uv_b = uvs[uv_faces[face, 1]]
                    uv_c = uvs[uv_faces[face, 2]]
                    move_a = wp.vec3()
                    move_b = wp.vec3()
                    move_c = wp.vec3()
            if face >= 0:
                weights = weights_at(a, b, c, column, row)
                uv = weights.value[0] * uv_a + weights.value[1] * uv_b + weights.value[2] * uv_c
                at = texels_at(uv[0], uv[1], texture.shape[2], texture.shape[1])
                arriving = gradient[image, row, column]
                if to_textures:
                    above = (1.0 - at.y) * arriving
                    below = at.y * arriving
                    wp.atomic_add(to_texture, source, at.top, at.left, (1.0 - at.x) * above)
                    wp.atomic_add(to_texture, source, at.top, at.right, at.x * above)
                    wp.atomic_add(to_texture, source, at.bottom, at.left, (1.0 - at.x) * below)
                    wp.atomic_add(to_texture, source, at.bottom, at.right, at.x * below)
                if to_vertices:
                    top_left = wp.dot(texture[source, at.top, at.left], arriving)
                    top_right = wp.dot(texture[source, at.top, at.right], arriving)
                    bottom_left = wp.dot(texture[source, at.bottom, at.left], arriving)
                    bottom_right = wp.dot(texture[source, at.bottom, at.right], arriving)
                    per_u = at.moves_x * (
                        (1.0 - at.y) * (top_right - top_left) + at.y * (bottom_right - bottom_left)
                    )
                    per_v = at.moves_y * (
                        (1.0 - at.x) * (bottom_left - top_left) + at.x * (bottom_right - top_right)
                    )
                    per_uv = wp.vec2(per_u, per_v)
                    per_corner = wp.vec3(wp.dot(uv_a, per_uv), wp.dot(uv_b, per_uv), wp.dot(uv_c, per_uv))
                    step = wp.vec3(
                        wp.dot(weights.along_x, per_corner), wp.dot(weights.along_y, per_corner), 0.0
                    )
                    move_a -= weights.value[0] * step
                    move_b -= weights.value[1] * step
                    move_c -= weights.value[2] * step

    return _Kernels(render_texture_kernel, render_texture_backward_kernel)


def render_texture(
    vertices_px: Tensor, faces: Tensor, ids: Tensor, uvs: Tensor, uv_faces: Tensor, texture: Tensor
) -> Tensor:
    """See ``texture.render_texture``; the result is channels-last."""
    batch, height, width = ids.shape
    texels = texture.permute(0, 2, 3, 1).contiguous()
    values = texture.new_empty((batch, height, width, texture.shape[1]))
    count, length = runs(width, ids.device)
    mesh = (Vectors(vertices_px.contiguous()), faces.int(), ids, Vectors(uvs.contiguous()), uv_faces.int())
    for part in channel_parts(texture.shape[1]):
        kernel = _kernels(part.stop - part.start).forward
        outputs = (Vectors(texels[..., part]), length, Vectors(values[..., part]))
        launch(kernel, (batch, height, count), *mesh, *outputs)
    return values.permute(0, 3, 1, 2)


def render_texture_backward(
    gradient: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    ids: Tensor,
    uvs: Tensor,
    uv_faces: Tensor,
    texture: Tensor,
    to_vertices: bool,
    to_textures: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``render_texture``; one that nobody asked for has no elements."""
    batch, height, width = ids.shape
    texels = texture.permute(0, 2, 3, 1).contiguous()
    gradient = gradient.permute(0, 2, 3, 1).contiguous()
    to_vertex = vertices_px.new_zeros(vertices_px.shape if to_vertices else (0, 0, 3))
    to_texture = texels.new_zeros(texels.shape if to_textures else (0, 0, 0, texels.shape[3]))
    count, length = runs(width, ids.device)
    mesh = (Vectors(vertices_px.contiguous()), faces.int(), ids, Vectors(uvs.contiguous()), uv_faces.int())
    for part in channel_parts(texture.shape[1]):
        source = (Vectors(texels[..., part]), length, to_vertices, to_textures)
        outputs = (Vectors(to_vertex), Vectors(to_texture[..., part]))
        kernel, size = _kernels(part.stop - part.start).backward, (batch, height, count)
        launch(kernel, size, Vectors(gradient[..., part]), *mesh, *source, *outputs)
    return to_vertex, to_texture.permute(0, 3, 1, 2)
