"""The mirror image of a head: the vertex and the texel on the other side."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from rome_lightning.head.model import HeadModel
from rome_lightning.renderer import UVLayout, interpolate


def mirrored_vertices(head: HeadModel) -> Int[Tensor, " v"]:
    """Index of the vertex nearest to each vertex's mirror image in the plane x = 0 of the mean head.

    Args:
        head: with a symmetric topology, as FLAME and the open head have.
    """
    return _mirrored_vertices(head, head.template.device)


@lru_cache(maxsize=4)
def _mirrored_vertices(head: HeadModel, device: torch.device) -> Int[Tensor, " v"]:
    """Cached: an avatar has textures of two sizes on one head."""
    vertices = head.to_vertices(head.template.unflatten(0, (-1, 3))).double()
    mirrored = vertices * vertices.new_tensor([-1.0, 1.0, 1.0])
    # Fifty times as fast as all distances.
    nearest = cKDTree(vertices.cpu().numpy()).query(mirrored.cpu().numpy())[1]
    return torch.from_numpy(nearest).to(device)


def mirrored_uvs(head: HeadModel, layout: UVLayout) -> Float[Tensor, "1 2 s s"]:
    """Texture coordinates of the mirror image of each texel's surface point, in [0, 1]; 0 outside the layout.

    Exact where the mirror image of a face is a face; elsewhere corners take the coordinates of their mirrored
    vertices, which is wrong at seams only.
    """
    mirror = mirrored_vertices(head)
    other = mirror[head.faces]
    keys, order = _face_keys(head.faces, head.num_vertices).sort()
    wanted = _face_keys(other, head.num_vertices)
    found = order[torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)]
    exact = _face_keys(head.faces[found], head.num_vertices) == wanted
    # The corner of the mirrored face at each corner's mirrored vertex.
    corner = (head.faces[found][:, None, :] == other[:, :, None]).int().argmax(-1)
    uvs = head.uvs[head.uv_faces[found].gather(1, corner)]
    uvs = torch.where(exact[:, None, None], uvs, head.vertex_uvs[other])
    corners = torch.arange(3 * len(uvs), dtype=torch.int32).view(-1, 3)
    return interpolate(layout.texels, layout.uv_faces, layout.face_ids, uvs.flatten(0, 1)[None], corners)


def _face_keys(faces: Int[Tensor, "f 3"], num_vertices: int) -> Int[Tensor, " f"]:
    """One integer per unordered set of corners."""
    first, second, third = faces.sort(1).values.unbind(1)
    return (first * num_vertices + second) * num_vertices + third
