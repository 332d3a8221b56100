"""CPU kernels of ``mesh.vertex_normals``: one thread per mesh adds its faces in order."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import torch
import warp as wp
from torch import Tensor

from rome_lightning.acceleration.launch import OPTIONS, Shared, Vectors, launch_images

wp.set_module_options(OPTIONS)


@wp.kernel
def vertex_normals_kernel(
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    shortest: wp.float32,
    sums: wp.array2d(dtype=wp.vec3),
    normals: wp.array2d(dtype=wp.vec3),
):
    """Sums of the faces' cross products at their corners, and these with length 1."""
    mesh = wp.tid()
    for face in range(faces.shape[0]):
        i = faces[face, 0]
        j = faces[face, 1]
        k = faces[face, 2]
        a = vertices[mesh, i]
        cross = wp.cross(vertices[mesh, j] - a, vertices[mesh, k] - a)
        sums[mesh, i] = sums[mesh, i] + cross
        sums[mesh, j] = sums[mesh, j] + cross
        sums[mesh, k] = sums[mesh, k] + cross
    for vertex in range(sums.shape[1]):
        total = sums[mesh, vertex]
        normals[mesh, vertex] = total / wp.max(wp.length(total), shortest)


@wp.kernel
def vertex_normals_backward_kernel(
    gradient: wp.array2d(dtype=wp.vec3),
    vertices: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.int32),
    shortest: wp.float32,
    sums: wp.array2d(dtype=wp.vec3),
    to_sum: wp.array2d(dtype=wp.vec3),
    to_vertex: wp.array2d(dtype=wp.vec3),
):
    """Gradients of the sums, then through each face's cross product."""
    mesh = wp.tid()
    for vertex in range(sums.shape[1]):
        arriving = gradient[mesh, vertex]
        length = wp.length(sums[mesh, vertex])
        if length > shortest:
            normal = sums[mesh, vertex] / length
            arriving = arriving - wp.dot(normal, arriving) * normal
        to_sum[mesh, vertex] = arriving / wp.max(length, shortest)
    for face in range(faces.shape[0]):
        i = faces[face, 0]
        j = faces[face, 1]
        k = faces[face, 2]
        a = vertices[mesh, i]
        per_cross = to_sum[mesh, i] + to_sum[mesh, j] + to_sum[mesh, k]
        to_j = wp.cross(vertices[mesh, k] - a, per_cross)
        to_k = wp.cross(per_cross, vertices[mesh, j] - a)
        to_vertex[mesh, i] = to_vertex[mesh, i] - to_j - to_k
        to_vertex[mesh, j] = to_vertex[mesh, j] + to_j
        to_vertex[mesh, k] = to_vertex[mesh, k] + to_k


def vertex_normals(vertices: Tensor, faces: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
    """See ``mesh._vertex_normals``."""
    vertices = vertices.contiguous()
    sums, normals = torch.zeros_like(vertices), torch.empty_like(vertices)
    inputs = (Vectors(vertices), Shared(faces.int()), shortest)
    launch_images(vertex_normals_kernel, (len(vertices),), *inputs, Vectors(sums), Vectors(normals))
    return normals, sums


def vertex_normals_backward(
    gradient: Tensor, vertices: Tensor, faces: Tensor, sums: Tensor, shortest: float
) -> Tensor:
    """Gradient of ``vertex_normals`` for the vertices."""
    vertices = vertices.contiguous()
    to_sum, to_vertex = torch.empty_like(vertices), torch.zeros_like(vertices)
    inputs = (Vectors(gradient.contiguous()), Vectors(vertices), Shared(faces.int()), shortest, Vectors(sums))
    launch_images(
        vertex_normals_backward_kernel, (len(vertices),), *inputs, Vectors(to_sum), Vectors(to_vertex)
    )
    return to_vertex
