"""Distances between triangle meshes: chamfer distance, normal error, F-score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.geometry import similarity
from rome_lightning.metrics.per_image import MeanOverImages

_CANDIDATES = 24
"""Number of candidates for the nearest triangle of each point, by the distance of their centres."""
_CHUNK = 4096


@dataclass(frozen=True)
class SurfacePoints:
    """Points on a mesh."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    """Unit."""
    faces: Int[Tensor, " n"]
    """Triangle of each point."""


@dataclass(frozen=True)
class MeshDistances:
    """Distances of sampled points on one surface from another."""

    distance: Float[Tensor, " n"]
    """Units of the vertices."""
    normal_deg: Float[Tensor, " n"]
    """Angle between the normals at the point and at the nearest point, degrees."""
    nearest: Float[Tensor, "n 3"]
    """The nearest point of the other surface."""


def sample_surface(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], num_points: int, seed: int = 0
) -> SurfacePoints:
    """Sample points uniformly over the area of a mesh.

    Args:
        vertices: of the mesh.
        faces: triangles; degenerate ones get no points.
        num_points: number of samples.
        seed: of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    corners = vertices[faces].double()
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = cross.norm(dim=-1)
    if not bool(area.sum() > 0):
        raise ValueError("a mesh without area has no surface to compare")
    chosen = torch.multinomial(area.float(), num_points, replacement=True, generator=generator)
    u, v = torch.rand(2, num_points, generator=generator, dtype=torch.float64)
    root = u.sqrt()
    weights = torch.stack([1 - root, root * (1 - v), root * v], dim=-1)
    points = (corners[chosen] * weights[..., None]).sum(1)
    normals = F.normalize(cross[chosen], dim=-1)
    return SurfacePoints(points.to(vertices), normals.to(vertices), chosen)


def distances_to_mesh(
    surface: SurfacePoints, vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]
) -> MeshDistances:
    """Distance of each point to its nearest point on a mesh.

    Exact if the nearest triangle is among the 24 with the nearest centres, as in meshes of evenly sized
    triangles.

    Args:
        surface: the points.
        vertices: of the mesh, same units.
        faces: triangles.

    Source: the nearest point of a triangle: Ericson, Real-time collision detection, 2005, sec. 5.1.5.
    """
    corners = vertices[faces].double()
    tree = cKDTree(corners.mean(1).numpy())
    count = min(_CANDIDATES, len(faces))
    distance, angle, nearest = [], [], []
    normals = F.normalize(
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=-1
    )
    for start in range(0, len(surface.points), _CHUNK):
        points = surface.points[start : start + _CHUNK].double()
        near = torch.from_numpy(tree.query(points.numpy(), count)[1].reshape(len(points), count))
        on_triangles = closest_on_triangle(points[:, None], corners[near])
        best = (on_triangles - points[:, None]).norm(dim=-1).argmin(1)
        rows = torch.arange(len(points))
        nearest.append(on_triangles[rows, best])
        distance.append((nearest[-1] - points).norm(dim=-1))
        cosine = (normals[near[rows, best]] * surface.normals[start : start + _CHUNK].double()).sum(-1)
        angle.append(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))
    return MeshDistances(torch.cat(distance).float(), torch.cat(angle).float(), torch.cat(nearest).float())


def closest_on_triangle(
    points: Float[Tensor, "*n 3"], triangles: Float[Tensor, "*n 3 3"]
) -> Float[Tensor, "*n 3"]:
    """Nearest point of each triangle.

    Args:
        points: broadcast against the triangles.
        triangles: corners.
    """
    a, b, c = triangles.unbind(-2)
    ab, ac = b - a, c - a

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1)

    d1, d2 = dot(ab, points - a), dot(ac, points - a)
    d3, d4 = dot(ab, points - b), dot(ac, points - b)
    d5, d6 = dot(ab, points - c), dot(ac, points - c)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    total = (va + vb + vc).clamp_min(1e-30)
    v, w = vb / total, vc / total
    # Outside the triangle, the nearest point is on an edge or at a corner.
    edges = []
    for start, end in ((a, b), (b, c), (c, a)):
        along = end - start
        share = (dot(points - start, along) / dot(along, along).clamp_min(1e-30)).clamp(0, 1)
        edges.append(start + share[..., None] * along)
    inside = (va >= 0) & (vb >= 0) & (vc >= 0) & (va + vb + vc > 0)
    on_edges = torch.stack(edges, dim=-2)
    nearest = (on_edges - points[..., None, :]).norm(dim=-1).argmin(-1)
    on_edge = on_edges.gather(-2, nearest[..., None, None].expand(*nearest.shape, 1, 3)).squeeze(-2)
    return torch.where(inside[..., None], a + v[..., None] * ab + w[..., None] * ac, on_edge)


def f_score(
    truth_to_prediction: Float[Tensor, " n"], prediction_to_truth: Float[Tensor, " m"], threshold: float
) -> float:
    """Harmonic mean of the shares of each surface within a threshold of the other, [0, 1].

    Source: Knapitsch et al., Tanks and temples, 2017, eqs. 3 to 5.
    """
    recall = float((truth_to_prediction < threshold).float().mean())
    precision = float((prediction_to_truth < threshold).float().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def procrustes(
    source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], scale: bool
) -> Float[Tensor, "4 4"]:
    """Least-squares rotation, shift and, optionally, scale from one set of points to another.

    Args:
        source: at least three points, not collinear.
        target: corresponding points.
        scale: whether to fit a scale.
    """
    factor, rotation, shift = similarity(source.double(), target.double(), with_scale=scale)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = factor * rotation
    matrix[:3, 3] = shift
    return matrix


def transform(matrix: Float[Tensor, "4 4"], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Apply an affine map."""
    return (points.double() @ matrix[:3, :3].T + matrix[:3, 3]).to(points)


def icp(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    target: SurfacePoints,
    scale: bool = False,
    iterations: int = 50,
    keep: float = 0.9,
) -> Float[Tensor, "4 4"]:
    """Align a mesh to points of a nearby surface by iterative closest points.

    Args:
        vertices: of the mesh to move.
        faces: of the mesh to move.
        target: points; each is paired with the nearest point of the moved surface.
        scale: whether to fit a scale.
        iterations: maximum number.
        keep: share of the closest pairs that count, [0, 1]: hair and borders have no counterpart.

    Source: Besl & McKay, A method for registration of 3-D shapes, 1992, with trimming.
    """
    matrix = torch.eye(4, dtype=torch.float64)
    previous = math.inf
    for _ in range(iterations):
        found = distances_to_mesh(target, transform(matrix, vertices), faces)
        kept = found.distance.argsort()[: max(3, int(keep * len(found.distance)))]
        error = float(found.distance[kept].mean())
        if previous - error < 1e-4 * error:
            break
        previous = error
        matrix = procrustes(found.nearest[kept], target.points[kept], scale) @ matrix
    return matrix


class ChamferDistance(MeanOverImages):
    """Mean distance from points of the truth to the prediction, averaged over meshes, lower is better.

    Args:
        num_points: sampled on each true surface.
    """

    higher_is_better = False

    def __init__(self, num_points: int = 20000, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.num_points = num_points

    def update(
        self,
        vertices: Float[Tensor, "v 3"],
        faces: Int[Tensor, "f 3"],
        true_vertices: Float[Tensor, "w 3"],
        true_faces: Int[Tensor, "g 3"],
    ) -> None:
        """Add one predicted mesh and its truth, aligned, in the same units."""
        surface = sample_surface(true_vertices, true_faces, self.num_points)
        self.add(distances_to_mesh(surface, vertices, faces).distance.mean()[None])
