"""Kernels of ``interpolation``."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import functools
from typing import NamedTuple

import warp as wp
from torch import Tensor

from rome_lightning.acceleration.channels import channel_parts
from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images, runs
from rome_lightning.renderer.kernels.barycentric import slopes_of, weights_at


class _Kernels(NamedTuple):
    forward: wp.Kernel
    backward: wp.Kernel


@functools.cache
def _kernels(num_channels: int) -> _Kernels:
    """Kernels for a number of attribute channels, compiled on first use."""
    vector = wp.types.vector(length=num_channels, dtype=wp.float32)

    @wp.kernel(module="unique", module_options=OPTIONS)
    def interpolate_kernel(
        vertices: wp.array2d(dtype=wp.vec3),
        faces: wp.array2d(dtype=wp.int32),
        ids: wp.array2d(dtype=wp.int32),
        attributes: wp.array2d(dtype=vector),
        attribute_faces: wp.array2d(dtype=wp.int32),
        width: wp.int32,
        length: wp.int32,
        values: wp.array2d(dtype=vector),
    ):
        """Attributes at pixel centres; one thread per run of pixels."""
        image, row, run = wp.tid()
        first = row * width
        shared = wp.min(image, vertices.shape[0] - 1)
        source = wp.min(image, attributes.shape[0] - 1)
        shared_ids = wp.min(image, ids.shape[0] - 1)
        a = wp.vec3()
        b = wp.vec3()
        c = wp.vec3()
        at_a = vector()
        at_b = vector()
        at_c = vector()
        current = wp.int32(-1)
        for column in range(run * length, (run + 1) * length):
            face = ids[shared_ids, first + column]
            value = vector()
            if face >= 0:
                if face != current:
                    current = face
                    a = vertices[shared, faces[face, 0]]
                    b = vertices[shared, faces[face, 1]]
                    c = vertices[shared, faces[face, 2]]
                    at_a = attributes[source, attribute_faces[face, 0]]
                    at_b = attributes[source, attribute_faces[face, 1]]
                    at_c = attributes[source, attribute_faces[face, 2]]
                weights = weights_at(a, b, c, column, row)
                value = weights[0] * at_a + weights[1] * at_b + weights[2] * at_c
            values[image, first + column] = value

    @wp.kernel(module="unique", module_options=OPTIONS)
    def interpolate_backward_kernel(
        gradient: wp.array2d(dtype=vector),
        vertices: wp.array2d(dtype=wp.vec3),
        faces: wp.array2d(dtype=wp.int32),
        ids: wp.array2d(dtype=wp.int32),
        attributes: wp.array2d(dtype=vector),
        attribute_faces: wp.array2d(dtype=wp.int32),
        width: wp.int32,
        length: wp.int32,
        to_vertices: wp.bool,
        to_attributes: wp.bool,
        to_vertex: wp.array2d(dtype=wp.vec3),
        to_attribute: wp.array2d(dtype=vector),
    ):
        """Gradients for the corners of each face, summed over a run of pixels before they are added."""
        image, row, run = wp.tid()
        first = row * width
        shared = wp.min(image, vertices.shape[0] - 1)
        source = wp.min(image, attributes.shape[0] - 1)
        shared_ids = wp.min(image, ids.shape[0] - 1)
        a = wp.vec3()
        b = wp.vec3()
        c = wp.vec3()
        along_x = vector()
        along_y = vector()
        to_a = vector()
        to_b = vector()
        to_c = vector()
        move_a = wp.vec3()
        move_b = wp.vec3()
        move_c = wp.vec3()
        current = wp.int32(-1)
        end = (run + 1) * length
        for column in range(run * length, end + 1):
            face = wp.int32(-1)
            if column < end:
                face = ids[shared_ids, first + column]
            if face != current:
                if current >= 0:
                    if to_attributes:
                        wp.atomic_add(to_attribute, source, attribute_faces[current, 0], to_a)
                        wp.atomic_add(to_attribute, source, attribute_faces[current, 1], to_b)
                        wp.atomic_add(to_attribute, source, attribute_faces[current, 2], to_c)
                    if to_vertices:
                        wp.atomic_add(to_vertex, shared, faces[current, 0], move_a)
                        wp.atomic_add(to_vertex, shared, faces[current, 1], move_b)
                        wp.atomic_add(to_vertex, shared, faces[current, 2], move_c)
                current = face
                if face >= 0:
                    a = vertices[shared, faces[face, 0]]
                    b = vertices[shared, faces[face, 1]]
                    c = vertices[shared, faces[face, 2]]
                    at_a = attributes[source, attribute_faces[face, 0]]
                    at_b = attributes[source, attribute_faces[face, 1]]
                    at_c = attributes[source, attribute_faces[face, 2]]
                    slopes = slopes_of(a, b, c)
                    along_x = slopes.along_x[0] * at_a + slopes.along_x[1] * at_b + slopes.along_x[2] * at_c
                    along_y = slopes.along_y[0] * at_a + slopes.along_y[1] * at_b + slopes.along_y[2] * at_c
                    to_a = vector()
                    to_b = vector()
                    to_c = vector()
                    move_a = wp.vec3()
                    move_b = wp.vec3()
                    move_c = wp.vec3()
            if face >= 0:
                weights = weights_at(a, b, c, column, row)
                arriving = gradient[image, first + column]
                to_a += weights[0] * arriving
                to_b += weights[1] * arriving
                to_c += weights[2] * arriving
                step = wp.vec3(wp.dot(along_x, arriving), wp.dot(along_y, arriving), 0.0)
                move_a -= weights[0] * step
                move_b -= weights[1] * step
                move_c -= weights[2] * step

    return _Kernels(interpolate_kernel, interpolate_backward_kernel)


def interpolate(
    vertices_px: Tensor, faces: Tensor, ids: Tensor, attributes: Tensor, attribute_faces: Tensor
) -> Tensor:
    """See ``interpolation.interpolate``; the result is channels-last."""
    batch, num_channels = max(len(vertices_px), len(ids), len(attributes)), attributes.shape[2]
    height, width = ids.shape[1:]
    values = attributes.new_empty((batch, height, width, num_channels))
    count, length = runs(width, ids.device)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()), ids.flatten(1))
    attributes, attribute_faces = attributes.contiguous(), Shared(attribute_faces.int())
    for part in channel_parts(num_channels):
        inputs = (*mesh, Vectors(attributes[..., part]), attribute_faces, width, length)
        kernel, outputs = _kernels(part.stop - part.start).forward, Vectors(values[..., part].flatten(1, 2))
        launch_images(kernel, (batch, height, count), *inputs, outputs)
    return values.permute(0, 3, 1, 2)


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
    """Gradients of ``interpolate``; one that is not needed is empty."""
    num_channels = attributes.shape[2]
    to_vertex = vertices_px.new_zeros(vertices_px.shape if to_vertices else (0, 0, 3))
    to_attribute = attributes.new_zeros(attributes.shape if to_attributes else (0, 0, num_channels))
    height, width = ids.shape[1:]
    count, length = runs(width, ids.device)
    gradient = gradient.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    mesh = (Vectors(vertices_px.contiguous()), Shared(faces.int()), ids.flatten(1))
    attributes, attribute_faces = attributes.contiguous(), Shared(attribute_faces.int())
    for part in channel_parts(num_channels):
        inputs = (*mesh, Vectors(attributes[..., part]), attribute_faces, width, length)
        outputs = (to_vertices, to_attributes, Vectors(to_vertex), Vectors(to_attribute[..., part]))
        kernel, arriving = _kernels(part.stop - part.start).backward, Vectors(gradient[..., part])
        launch_images(kernel, (len(gradient), height, count), arriving, *inputs, *outputs)
    return to_vertex, to_attribute
