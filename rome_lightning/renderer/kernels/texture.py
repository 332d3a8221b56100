"""Kernels of ``texture.render_texture``: interpolated texture coordinates and bilinear lookup in one pass."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import functools
from typing import NamedTuple

import warp as wp
from torch import Tensor

from rome_lightning.acceleration.channels import channel_parts
from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images, runs
from rome_lightning.renderer.kernels.barycentric import slopes_of, weights_at


@wp.struct
class Texels:
    """The four texels around a point, by their flat index in one texture, and where between them it lies."""

    first: wp.int32
    right: wp.int32
    """From a texel to its right neighbour; 0 at the border."""
    below: wp.int32
    x: wp.float32
    y: wp.float32
    per_u: wp.float32
    """Change of x with u; 0 beyond the border."""
    per_v: wp.float32


@wp.func
def texels_at(uv: wp.vec2, width: wp.int32, height: wp.int32) -> Texels:
    """Where texture coordinates lie, with the border repeated outside."""
    result = Texels()
    last_column = wp.float32(width - 1)
    last_row = wp.float32(height - 1)
    x = uv[0] * wp.float32(width) - 0.5
    y = uv[1] * wp.float32(height) - 0.5
    if x > 0.0 and x < last_column:
        result.per_u = wp.float32(width)
    if y > 0.0 and y < last_row:
        result.per_v = wp.float32(height)
    x = wp.clamp(x, 0.0, last_column)
    y = wp.clamp(y, 0.0, last_row)
    column = wp.int32(x)
    row = wp.int32(y)
    result.x = x - wp.float32(column)
    result.y = y - wp.float32(row)
    result.first = row * width + column
    if column < width - 1:
        result.right = 1
    if row < height - 1:
        result.below = width
    return result


class _Kernels(NamedTuple):
    forward: wp.Kernel
    backward: wp.Kernel


@functools.cache
def _kernels(num_channels: int) -> _Kernels:
    """Kernels for a number of texture channels, compiled on first use."""
    vector = wp.types.vector(length=num_channels, dtype=wp.float32)

    @wp.func
    def dot(a: vector, b: vector) -> wp.float32:
        """Of eight channels in pairs: no sum then waits for the last one."""
        if wp.static(num_channels != 8):
            return wp.dot(a, b)
        p = wp.cw_mul(a, b)
        return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))

    @wp.kernel(module="unique", module_options=OPTIONS)
    def render_texture_kernel(
        vertices: wp.array2d(dtype=wp.vec3),
        faces: wp.array2d(dtype=wp.int32),
        ids: wp.array2d(dtype=wp.int32),
        uvs: wp.array1d(dtype=wp.vec2),
        uv_faces: wp.array2d(dtype=wp.int32),
        texture: wp.array2d(dtype=vector),
        texture_height: wp.int32,
        texture_width: wp.int32,
        width: wp.int32,
        length: wp.int32,
        values: wp.array2d(dtype=vector),
    ):
        """Texture at pixel centres; one thread per run of pixels."""
        image, row, run = wp.tid()
        first = row * width
        source = wp.min(image, texture.shape[0] - 1)
        a = wp.vec3()
        b = wp.vec3()
        c = wp.vec3()
        uv_a = wp.vec2()
        uv_b = wp.vec2()
        uv_c = wp.vec2()
        current = wp.int32(-1)
        for column in range(run * length, (run + 1) * length):
            face = ids[image, first + column]
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
                weights = weights_at(a, b, c, column, row)
                uv = weights[0] * uv_a + weights[1] * uv_b + weights[2] * uv_c
                at = texels_at(uv, texture_width, texture_height)
                below = at.first + at.below
                top = texture[source, at.first]
                top += at.x * (texture[source, at.first + at.right] - top)
                bottom = texture[source, below]
                bottom += at.x * (texture[source, below + at.right] - bottom)
                value = top + at.y * (bottom - top)
            values[image, first + column] = value

    @wp.kernel(module="unique", module_options=OPTIONS)
    def render_texture_backward_kernel(
        gradient: wp.array2d(dtype=vector),
        vertices: wp.array2d(dtype=wp.vec3),
        faces: wp.array2d(dtype=wp.int32),
        ids: wp.array2d(dtype=wp.int32),
        uvs: wp.array1d(dtype=wp.vec2),
        uv_faces: wp.array2d(dtype=wp.int32),
        texture: wp.array2d(dtype=vector),
        texture_height: wp.int32,
        texture_width: wp.int32,
        width: wp.int32,
        length: wp.int32,
        to_vertices: wp.bool,
        to_textures: wp.bool,
        to_vertex: wp.array2d(dtype=wp.vec3),
        to_texture: wp.array2d(dtype=vector),
    ):
        """Gradients for the texels and for the corners of each face, those summed over a run of pixels."""
        image, row, run = wp.tid()
        first = row * width
        source = wp.min(image, texture.shape[0] - 1)
        a = wp.vec3()
        b = wp.vec3()
        c = wp.vec3()
        uv_a = wp.vec2()
        uv_b = wp.vec2()
        uv_c = wp.vec2()
        along_x = wp.vec2()
        along_y = wp.vec2()
        move_a = wp.vec3()
        move_b = wp.vec3()
        move_c = wp.vec3()
        current = wp.int32(-1)
        end = (run + 1) * length
        for column in range(run * length, end + 1):
            face = wp.int32(-1)
            if column < end:
                face = ids[image, first + column]
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
                    slopes = slopes_of(a, b, c)
                    along_x = slopes.along_x[0] * uv_a + slopes.along_x[1] * uv_b + slopes.along_x[2] * uv_c
                    along_y = slopes.along_y[0] * uv_a + slopes.along_y[1] * uv_b + slopes.along_y[2] * uv_c
                    move_a = wp.vec3()
                    move_b = wp.vec3()
                    move_c = wp.vec3()
            if face >= 0:
                weights = weights_at(a, b, c, column, row)
                uv = weights[0] * uv_a + weights[1] * uv_b + weights[2] * uv_c
                at = texels_at(uv, texture_width, texture_height)
                arriving = gradient[image, first + column]
                below = at.first + at.below
                if to_textures:
                    to_bottom = at.y * arriving
                    to_top = arriving - to_bottom
                    to_right = at.x * to_top
                    wp.atomic_add(to_texture, source, at.first, to_top - to_right)
                    wp.atomic_add(to_texture, source, at.first + at.right, to_right)
                    to_right = at.x * to_bottom
                    wp.atomic_add(to_texture, source, below, to_bottom - to_right)
                    wp.atomic_add(to_texture, source, below + at.right, to_right)
                if to_vertices:
                    top_left = texture[source, at.first]
                    top_right = texture[source, at.first + at.right]
                    bottom_left = texture[source, below]
                    bottom_right = texture[source, below + at.right]
                    along = top_right - top_left
                    along += at.y * (bottom_right - bottom_left - along)
                    down = bottom_left - top_left
                    down += at.x * (bottom_right - top_right - down)
                    per_uv = wp.vec2(
                        at.per_u * dot(along, arriving),
                        at.per_v * dot(down, arriving),
                    )
                    step = wp.vec3(wp.dot(along_x, per_uv), wp.dot(along_y, per_uv), 0.0)
                    move_a -= weights[0] * step
                    move_b -= weights[1] * step
                    move_c -= weights[2] * step

    return _Kernels(render_texture_kernel, render_texture_backward_kernel)


def render_texture(
    vertices_px: Tensor, faces: Tensor, ids: Tensor, uvs: Tensor, uv_faces: Tensor, texture: Tensor
) -> Tensor:
    """See ``texture.render_texture``; the result is channels-last."""
    values = texture.new_empty((*ids.shape, texture.shape[1]))
    mesh, texels, sizes, threads = _inputs(vertices_px, faces, ids, uvs, uv_faces, texture)
    for part in channel_parts(texture.shape[1], few_passes=not texture.is_cuda):
        outputs = Vectors(values[..., part].flatten(1, 2))
        kernel = _kernels(part.stop - part.start).forward
        launch_images(kernel, threads, *mesh, Vectors(texels[..., part]), *sizes, outputs)
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
    """Gradients of ``render_texture``; one that is not needed is empty."""
    mesh, texels, sizes, threads = _inputs(vertices_px, faces, ids, uvs, uv_faces, texture)
    gradient = gradient.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    to_vertex = vertices_px.new_zeros(vertices_px.shape if to_vertices else (0, 0, 3))
    to_texture = texels.new_zeros(texels.shape if to_textures else (0, 0, texels.shape[2]))
    for part in channel_parts(texture.shape[1]):
        outputs = (to_vertices, to_textures, Vectors(to_vertex), Vectors(to_texture[..., part]))
        kernel, arriving = _kernels(part.stop - part.start).backward, Vectors(gradient[..., part])
        launch_images(kernel, threads, arriving, *mesh, Vectors(texels[..., part]), *sizes, *outputs)
    size = texture.shape[2:] if to_textures else (0, 0)
    return to_vertex, to_texture.unflatten(1, size).permute(0, 3, 1, 2)


def _inputs(
    vertices_px: Tensor, faces: Tensor, ids: Tensor, uvs: Tensor, uv_faces: Tensor, texture: Tensor
) -> tuple[tuple[object, ...], Tensor, tuple[int, ...], tuple[int, ...]]:
    """The mesh, the texels as a flat list, the sizes, and the number of threads for a batch."""
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()), ids.flatten(1))
    texels = texture.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    batch, height, width = ids.shape
    count, length = runs(width, ids.device)
    sizes = (*texture.shape[2:], width, length)
    return (
        (*mesh, Shared(Vectors(uvs.contiguous())), Shared(uv_faces.int())),
        texels,
        sizes,
        (batch, height, count),
    )
