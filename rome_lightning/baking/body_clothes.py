"""A plain garment for the bare body: stretched over hollows, lifted off the skin, with shoes for feet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.spatial import ConvexHull

from rome_lightning.baking.head_mesh import BoolArray, FloatArray, IntArray

STRETCHED: dict[str, float] = {"trunk": 0.65, "left leg": 0.75, "right leg": 0.75}
"""Parts, and how far cloth goes from the skin to the part's convex hull."""
_ROUNDS = 40
"""Of smoothing, after which the garment no longer shows the body's small forms."""
_LIFT = 0.007
"""Of the garment off the skin, metres."""
_FADE_RINGS = 4
"""Rings of edges over which the garment leaves the common edge with the head."""
_SOLE = 0.005


@dataclass(frozen=True)
class BodyMesh:
    """The base mesh below the head's cut."""

    base_indices: IntArray
    """Base-mesh vertex of each vertex."""
    quads: IntArray
    faces: IntArray
    uvs: FloatArray
    """v down."""
    uv_faces: IntArray
    hands: BoolArray
    """Vertices of the hands, the wrists' edge included."""
    feet: BoolArray
    rim: IntArray
    """(r, 2): vertex of the body and of the head on the common edge."""


def clothe(mesh: BodyMesh, skin: FloatArray, parts: Mapping[str, FloatArray]) -> FloatArray:
    """Vertices of a clothed body; the common edge with the head, and the hands, stay.

    Args:
        mesh: the body's mesh.
        skin: (n, 3) its bare vertices, metres.
        parts: share of each part of ``STRETCHED`` in each vertex.
    """
    neighbours = _neighbours(mesh.quads, len(skin))
    cloth = ~(mesh.hands | mesh.feet)
    cloth[mesh.rim[:, 0]] = False
    away = _away_from(mesh.rim[:, 0], neighbours) * cloth
    points = skin.copy()
    for name, share in STRETCHED.items():
        points = _stretched(points, parts[name], share * away)
    for side in (1, -1):
        foot = mesh.feet & (side * skin[:, 0] > 0)
        points[foot] = _shoe(skin[foot], _border(mesh, foot)[foot])
    points = _smooth(points, neighbours, mesh.feet & ~_border(mesh, mesh.feet), _ROUNDS)
    points = _smooth(points, neighbours, cloth, _ROUNDS)
    return points + (_LIFT * away)[:, None] * _normals(points, mesh.quads)


def _neighbours(quads: IntArray, count: int) -> csr_matrix:
    """(n, n): takes the mean over the neighbours of each vertex."""
    pairs = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count)).tocsr()
    return csr_matrix(diags(1 / np.asarray(graph.sum(1)).ravel()) @ graph)


def _away_from(edge: IntArray, neighbours: csr_matrix) -> FloatArray:
    """0 at an edge, 1 from ``_FADE_RINGS`` rings on."""
    reached = np.zeros(neighbours.shape[0], bool)
    reached[edge] = True
    away = np.ones(len(reached))
    for ring in range(_FADE_RINGS):
        away[reached & (away == 1)] = ring / _FADE_RINGS
        reached |= neighbours @ reached > 0
    return away * away * (3 - 2 * away)


def _stretched(points: FloatArray, part: FloatArray, share: FloatArray) -> FloatArray:
    """Vertices of a part moved towards its convex hull, away from the line through its middle."""
    inside = part > 0.5
    hull = ConvexHull(points[inside]).equations
    high, low = points[inside, 1].max() - 0.08, points[inside, 1].min() + 0.08
    ends = [points[inside & (np.abs(points[:, 1] - level) < 0.06)].mean(0) for level in (low, high)]
    along = np.clip((points[:, 1] - low) / (high - low), 0, 1)[:, None]
    moved = _to_hull(points, (1 - along) * ends[0] + along * ends[1], hull)
    return points + (share * part)[:, None] * (moved - points)


def _to_hull(points: FloatArray, centres: FloatArray, hull: FloatArray) -> FloatArray:
    """Where the rays from centres through points leave a convex hull; points beyond it stay."""
    ray = points - centres
    slope = ray @ hull[:, :3].T
    room = -(centres @ hull[:, :3].T + hull[:, 3])
    reach = np.where(slope > 1e-9, room / np.maximum(slope, 1e-9), np.inf).min(1)
    return centres + np.maximum(reach, 1)[:, None] * ray


def _smooth(points: FloatArray, neighbours: csr_matrix, moves: BoolArray, rounds: int) -> FloatArray:
    """Smoothing that does not shrink: Taubin, A signal processing approach to fair surface design, 1995."""
    for _ in range(rounds):
        for step in (0.5, -0.51):
            points = points + moves[:, None] * step * (neighbours @ points - points)
    return points


def _border(mesh: BodyMesh, part: BoolArray) -> BoolArray:
    """Vertices of a part that quads beyond it share."""
    border = np.zeros(len(part), bool)
    border[mesh.quads[~part[mesh.quads].all(1)]] = True
    return border & part


def _shoe(foot: FloatArray, ankle: BoolArray) -> FloatArray:
    """Vertices of a foot pushed out to its convex hull, with a sole; the edge at the ankle stays."""
    top, bottom = foot[:, 1].max(), foot[:, 1].min()
    # Shoes are higher above the toes than these are.
    toes = foot[foot[:, 2] > foot[:, 2].max() - 0.05]
    cap = np.stack([toes[:, 0], np.full(len(toes), bottom + 0.045), toes[:, 2] - 0.015], axis=1)
    hull = ConvexHull(np.concatenate([foot, cap])).equations
    centres = np.repeat([[foot[:, 0].mean(), bottom + 0.025, 0.0]], len(foot), 0)
    centres[:, 2] = np.clip(foot[:, 2], foot[:, 2].min() + 0.05, foot[:, 2].max() - 0.04)
    share = np.clip((top - foot[:, 1]) / 0.05, 0, 1) * ~ankle
    pushed = foot + share[:, None] * (_to_hull(foot, centres, hull) - foot)
    outward = pushed - centres
    return pushed + (_SOLE * share / np.linalg.norm(outward, axis=1))[:, None] * outward


def _normals(points: FloatArray, quads: IntArray) -> FloatArray:
    across = np.cross(points[quads[:, 2]] - points[quads[:, 0]], points[quads[:, 3]] - points[quads[:, 1]])
    normals = np.zeros_like(points)
    for corner in range(4):
        np.add.at(normals, quads[:, corner], across)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)
