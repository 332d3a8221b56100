"""Functions of triangle meshes with one topology per batch."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.acceleration.operator import operator
from rome_lightning.geometry.checks import check_batches, check_faces

_SHORTEST = 1e-12
"""Shorter sums of cross products are not normalized to length 1."""


def face_normals(vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b f 3"]:
    """Outward normals whose length is twice the face's area."""
    a, b, c = vertices[:, faces].unbind(2)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(
    vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"], fused: bool | None = None
) -> Float[Tensor, "b v 3"]:
    """Area-weighted unit normals; 0 at vertices without a face.

    Args:
        vertices: any space.
        faces: corner indices.
        fused: use the equivalent Warp kernels; by default wherever they can run: on a CPU, and not during
            export.
    """
    if fused is None:
        fused = vertices.device.type == "cpu" and not torch.compiler.is_exporting() and has_kernels(vertices)
    if fused:
        normals, _ = _vertex_normals(vertices.float(), faces)
        return normals
    per_face = face_normals(vertices, faces)
    per_corner = per_face.repeat_interleave(3, dim=1)
    if torch.jit.is_tracing():
        # ONNX has no index_add; elsewhere index_add also adds in a fixed order on GPUs.
        index = faces.long().reshape(1, -1, 1).expand(len(vertices), -1, 3)
        sums = torch.zeros_like(vertices).scatter_add(1, index, per_corner)
    else:
        sums = torch.zeros_like(vertices).index_add(1, faces.reshape(-1), per_corner)
    return F.normalize(sums, dim=-1, eps=_SHORTEST)


@operator("vertex_normals")
def _vertex_normals(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Normals, and the sums of cross products they come from. Needs Warp."""
    check_batches(vertices=(vertices, False))
    check_faces("faces", faces, vertices.shape[1])
    normals, sums = kernels("geometry").vertex_normals(vertices, faces, _SHORTEST)
    return normals, sums


@_vertex_normals.register_fake
def _(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    return vertices.new_empty(vertices.shape), vertices.new_empty(vertices.shape)


@operator("vertex_normals_backward")
def _vertex_normals_backward(gradient: Tensor, vertices: Tensor, faces: Tensor, sums: Tensor) -> Tensor:
    """Gradient of ``_vertex_normals`` for the vertices."""
    to_vertices: Tensor = kernels("geometry").vertex_normals_backward(
        gradient, vertices, faces, sums, _SHORTEST
    )
    return to_vertices


@_vertex_normals_backward.register_fake
def _(gradient: Tensor, vertices: Tensor, faces: Tensor, sums: Tensor) -> Tensor:
    return vertices.new_empty(vertices.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx, gradient: Tensor | None, _: object):  # type: ignore[no-untyped-def]
    return None if gradient is None else _vertex_normals_backward(gradient, *ctx.saved_tensors), None


_vertex_normals.register_autograd(_backward, setup_context=_setup_context)


def unique_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Unique undirected edges, smaller vertex index first, sorted."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    # One number per edge in the same order: to compare rows takes torch nine times as long.
    first, second = pairs.long().sort(dim=1).values.unbind(1)
    count = int(faces.max()) + 1 if len(faces) else 1
    keys = (first * count + second).unique()
    return torch.stack([keys // count, keys % count], dim=1).to(faces.dtype)
