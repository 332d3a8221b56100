"""The surface in a file: the head's own, or a bust with a clean, closed cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from rome_lightning.head import HeadModel

CAP_UV = (0.002, 0.002)
"""Where the texture has the colour of the cap: in the border around the charts."""


@dataclass(frozen=True)
class Surface:
    """Triangles whose vertices are weighted sums of a mesh's vertices; one index for place and texture."""

    weights: csr_matrix
    """(n, v): of the mesh's vertices in each vertex; rows sum to 1. The mesh is a head's or a body's."""
    uvs: Float[Tensor, "n 2"]
    """Texture coordinates, as ``HeadModel.uvs``."""
    faces: Int[Tensor, "f 3"]
    cap: Bool[Tensor, " n"]
    """Vertices of the cap below, which has an edge of its own."""

    def carry(self, values: Float[Tensor, "v c"]) -> Float[Tensor, "n c"]:
        """Values of the mesh's vertices at the vertices of the surface."""
        carried = self.weights @ values.double().cpu().numpy()
        return torch.from_numpy(np.asarray(carried)).to(values.dtype)


@dataclass(frozen=True)
class Cut:
    """A bowl below which a bust ends: y = bottom + side x^2 + depth (z - middle)^2 in head space, metres."""

    bottom: float
    side: float
    depth: float
    middle: float

    def above(self, points: Float[Tensor, "v 3"]) -> Float[Tensor, " v"]:
        """Height above the bowl, metres."""
        x, y, z = points.unbind(-1)
        return y - self.bottom - self.side * x.square() - self.depth * (z - self.middle).square()


def whole_surface(head: HeadModel) -> Surface:
    """The head's mesh as it is, a vertex per pair of vertex and texture coordinate."""
    return mesh_surface(head.faces.cpu(), head.uv_faces.cpu(), head.uvs.cpu().float(), head.num_vertices)


def mesh_surface(
    faces: Int[Tensor, "f 3"], uv_faces: Int[Tensor, "f 3"], uvs: Float[Tensor, "u 2"], num_vertices: int
) -> Surface:
    """Any mesh as it is, a vertex per pair of vertex and texture coordinate."""
    vertices, uv_ids, corners = _corners(faces, uv_faces)
    return Surface(
        _rows(vertices.numpy()[:, None], np.ones((len(vertices), 1)), num_vertices),
        uvs[uv_ids],
        corners,
        torch.zeros(len(vertices), dtype=torch.bool),
    )


def bust_surface(head: HeadModel, rest: Float[Tensor, "v 3"], cut: Cut) -> Surface:
    """The part of a person's mesh above a bowl, closed by a cap.

    Triangles across the bowl are split, so that the rim is smooth however coarse the mesh. Each of the
    rim's loops is closed by a fan around its centre.

    Args:
        head: the head model.
        rest: the person's vertices at rest, metres.
        cut: where the bust ends; the border of the head's mesh must lie below it.
    """
    vertices, uv_ids, faces = _corners(head.faces.cpu(), head.uv_faces.cpu())
    heights = cut.above(rest.double().cpu())
    # A vertex on the bowl would divide its triangles into nothing.
    heights = torch.where(heights.abs() < 1e-6, torch.full_like(heights, 1e-6), heights)
    pieces = _clip(faces, heights[vertices])
    ends = vertices[pieces.edges]
    share = heights[ends[:, 0]] / (heights[ends[:, 0]] - heights[ends[:, 1]])
    uvs = head.uvs.cpu().float()[uv_ids]
    cut_uvs = torch.lerp(uvs[pieces.edges[:, 0]], uvs[pieces.edges[:, 1]], share[:, None].float())
    own = _rows(vertices.numpy()[:, None], np.ones((len(vertices), 1)), head.num_vertices)
    between = _rows(ends.numpy(), torch.stack([1 - share, share], 1).numpy(), head.num_vertices)
    rows = _stack(own, between)
    fan_rows, fan_faces = _fans(pieces, ends, rows, len(vertices))
    faces = torch.cat([pieces.faces, fan_faces])
    cap_uvs = torch.tensor(CAP_UV).expand(fan_rows.shape[0], 2)
    uvs = torch.cat([uvs, cut_uvs, cap_uvs])
    weights = _stack(rows, fan_rows)
    is_cap = torch.arange(len(uvs)) >= rows.shape[0]
    used, index = faces.unique(return_inverse=True)
    return Surface(weights[used.numpy()], uvs[used], index.view(-1, 3), is_cap[used])


@dataclass(frozen=True)
class _Pieces:
    faces: Int[Tensor, "f 3"]
    """Corners of what is kept; those of cut edges are counted on behind the others."""
    edges: Int[Tensor, "e 2"]
    """Corners at the ends of each cut edge: the kept one, the lost one."""
    rim: Int[Tensor, "r 2"]
    """Cut edges that are neighbours on the rim, in the direction of the kept triangle."""


def _clip(faces: Int[Tensor, "f 3"], heights: Float[Tensor, " c"]) -> _Pieces:
    """Keep what is above 0."""
    above = heights[faces] > 0
    count = above.sum(1)
    kept = [faces[count == 3]]
    # Turned so that the corner that differs from the other two comes first.
    single, double = _first(faces, above, count == 1), _first(faces, ~above, count == 2)
    a, b, c = single.unbind(1)
    p, q, r = double.unbind(1)
    # Of the edges below, each is (kept corner, lost corner).
    wanted = torch.cat([torch.stack(pair, 1) for pair in ((a, b), (a, c), (q, p), (r, p))])
    edges, number = wanted.unique(dim=0, return_inverse=True)
    number = number + len(heights)
    ab, ac, qp, rp = number.split([len(a), len(a), len(p), len(p)])
    kept += [torch.stack([a, ab, ac], 1), torch.stack([qp, q, r], 1), torch.stack([qp, r, rp], 1)]
    rim = torch.cat([torch.stack([ab, ac], 1), torch.stack([rp, qp], 1)]) - len(heights)
    return _Pieces(torch.cat(kept), edges, rim)


def _first(faces: Int[Tensor, "f 3"], odd: Bool[Tensor, "f 3"], chosen: Bool[Tensor, " f"]) -> Tensor:
    """Chosen faces with their odd corner first, in the same direction."""
    start = odd[chosen].int().argmax(1, keepdim=True)
    return faces[chosen].gather(1, (start + torch.arange(3)) % 3)


def _fans(
    pieces: _Pieces, ends: Int[Tensor, "e 2"], rows: csr_matrix, num_corners: int
) -> tuple[csr_matrix, Int[Tensor, "f 3"]]:
    """Vertices and triangles that close each loop of the rim."""
    # Seams of the texture divide corners, not the surface: points on the same edge of the mesh are one.
    points, point = ends.unique(dim=0, return_inverse=True)
    first = torch.full((len(points),), len(ends)).scatter_reduce(0, point, torch.arange(len(ends)), "amin")
    rim = point[pieces.rim]
    graph = csr_matrix((np.ones(len(rim)), rim.T.numpy()), shape=(len(points), len(points)))
    count, loop = connected_components(graph, directed=False)
    ring = rows[num_corners + first.numpy()]
    size = np.bincount(loop, minlength=count)
    centres = csr_matrix((1 / size[loop], (loop, np.arange(len(points)))), shape=(count, len(points))) @ ring
    base = rows.shape[0]
    middle = base + len(points) + torch.from_numpy(loop[rim[:, 0].numpy()]).long()
    return _stack(ring, centres), torch.stack([base + rim[:, 1], base + rim[:, 0], middle], 1)


def _corners(
    faces: Int[Tensor, "f 3"], uv_faces: Int[Tensor, "f 3"]
) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"], Int[Tensor, "f 3"]]:
    """Vertex and texture coordinate of each pair of both, and the triangles of these pairs."""
    pairs = torch.stack([faces.flatten(), uv_faces.flatten()], dim=1)
    unique, index = pairs.unique(dim=0, return_inverse=True)
    return unique[:, 0], unique[:, 1], index.view(-1, 3)


def _rows(columns: NDArray[np.int64], values: NDArray[np.float64], width: int) -> csr_matrix:
    count, each = columns.shape
    pointers = np.arange(0, count * each + 1, each)
    return csr_matrix((values.ravel(), columns.ravel(), pointers), shape=(count, width))


def _stack(first: csr_matrix, second: csr_matrix) -> csr_matrix:
    from scipy.sparse import vstack

    return csr_matrix(vstack([first, second]))
