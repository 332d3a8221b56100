"""Functions of triangle meshes whose topology is shared over the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def face_normals(vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b f 3"]:
    """Outward normals with length twice the face's area."""
    a, b, c = vertices[:, faces].unbind(2)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b v 3"]:
    """Area-weighted unit normals; 0 at vertices without a face."""
    per_face = face_normals(vertices, faces)
    index = faces.reshape(-1)
    normals = torch.zeros_like(vertices).index_add(1, index, per_face.repeat_interleave(3, dim=1))
    return F.normalize(normals, dim=-1, eps=1e-12)


def unique_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Undirected edges, each once, smaller vertex index first, sorted."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return pairs.sort(dim=1).values.unique(dim=0)
