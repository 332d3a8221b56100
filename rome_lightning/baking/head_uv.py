"""The texture atlas of the open head.

The artist's charts are injective but lie scattered over a whole body's layout. Here each is turned
upright, stretched to a rectangle of the atlas and, for the head, warped by one monotone function per
axis, so that the texels go where the face is. Such a warp of an injective chart bends edges only, and
``pack_charts`` checks that no face turned over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rome_lightning.baking.head_mesh import FloatArray, HeadMesh, IntArray

PADDING = 2.5 / 256
"""Margin inside each rectangle: neighbours are at least twice this apart, so bilinear sampling of a
256-texel texture never mixes charts."""


class Slot(NamedTuple):
    """Rectangle of a chart in the atlas (v down), and whether the chart is turned upright."""

    left: float
    top: float
    width: float
    height: float
    turn: bool = False


SLOTS = {
    "head": Slot(0.0, 0.0, 1.0, 0.64, turn=True),
    "body": Slot(0.0, 0.64, 0.66, 0.36),
    "left_eye_front": Slot(0.66, 0.64, 0.11, 0.11),
    "right_eye_front": Slot(0.77, 0.64, 0.11, 0.11),
    "mouth": Slot(0.66, 0.75, 0.22, 0.15),
    "tongue": Slot(0.88, 0.64, 0.12, 0.16),
    "upper_teeth": Slot(0.66, 0.90, 0.17, 0.05),
    "lower_teeth": Slot(0.66, 0.95, 0.17, 0.05),
    "left_socket": Slot(0.83, 0.90, 0.07, 0.10),
    "right_socket": Slot(0.90, 0.90, 0.07, 0.10),
    "left_eye_back": Slot(0.88, 0.80, 0.06, 0.05),
    "right_eye_back": Slot(0.94, 0.80, 0.06, 0.05),
    "left_arm": Slot(0.88, 0.85, 0.06, 0.05),
    "right_arm": Slot(0.94, 0.85, 0.06, 0.05),
}
"""Layout of the atlas. The right column has what is small or rarely seen."""

IMPORTANCE = {
    "face": 4.0,
    "ears": 1.5,
    "scalp": 1.0,
    "neck": 1.0,
    "shoulders": 1.0,
    "eyes": 1.0,
    "mouth": 1.0,
}
"""Texels per surface area that the head chart's warp aims at, relative to the scalp."""
EVENNESS = 0.65
"""0 keeps the artist's proportions, 1 gives every row and column of the head chart its exact share."""


def pack_charts(mesh: HeadMesh, vertices: FloatArray) -> FloatArray:
    """Texture coordinates of the atlas for ``mesh.uv_faces``, in [0, 1], v down.

    Args:
        mesh: with the artist's coordinates.
        vertices: (v, 3) mean head, carriers and midpoints.

    Returns:
        (u, 2) in the order of ``mesh.uvs``.
    """
    out = np.zeros_like(mesh.uvs)
    charts = _split_arms(mesh, vertices)
    for name, slot in SLOTS.items():
        chosen = charts == name
        corners = mesh.uv_faces[chosen]
        used = np.unique(corners)
        points = mesh.uvs[used][:, ::-1] if slot.turn else mesh.uvs[used] * [1, -1]
        points = (points - points.min(0)) / (points.max(0) - points.min(0))
        if name == "head":
            local = np.searchsorted(used, corners)
            weight = _importance(mesh, vertices)[chosen]
            points = np.stack([_even_out(points[:, axis], local, weight) for axis in (0, 1)], axis=1)
        size = np.array([slot.width, slot.height]) - 2 * PADDING
        out[used] = np.array([slot.left, slot.top]) + PADDING + points * size
    _check_orientation(out, mesh.uv_faces)
    return out


def _split_arms(mesh: HeadMesh, vertices: FloatArray) -> NDArray[np.str_]:
    """Chart names in which the two pieces that the cut separates from the body chart have their own."""
    charts = mesh.charts.copy()
    size = len(mesh.uvs)
    pairs = np.concatenate([mesh.uv_faces[:, [i, (i + 1) % 3]] for i in range(3)])
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(size, size))
    labels = connected_components(graph)[1][mesh.uv_faces[:, 0]]
    body = charts == "body"
    pieces, counts = np.unique(labels[body], return_counts=True)
    for piece in pieces[counts < counts.max()]:
        inside = body & (labels == piece)
        charts[inside] = "left_arm" if vertices[mesh.faces[inside]][..., 0].mean() > 0 else "right_arm"
    return charts


def _importance(mesh: HeadMesh, vertices: FloatArray) -> FloatArray:
    """Surface area of each face times the importance of its region."""
    corners = vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    weight = sum(IMPORTANCE[name] * mask for name, mask in mesh.regions.items())
    return area * np.asarray(weight)[mesh.faces].mean(1)


def _even_out(points: FloatArray, faces: IntArray, weight: FloatArray) -> FloatArray:
    """Monotone map of [0, 1] to itself that gives each interval its share of the faces' weight."""
    bins = 64
    density = np.zeros(bins)
    low, high = points[faces].min(1), points[faces].max(1)
    edges = np.linspace(0, 1, bins + 1)
    for i in range(bins):
        overlap = np.clip(np.minimum(high, edges[i + 1]) - np.maximum(low, edges[i]), 0, None)
        density[i] = (weight * overlap / np.maximum(high - low, 1e-9)).sum()
    # Smoothing keeps the map's slope, hence the texel density, free of steps.
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    density = np.convolve(np.pad(density, 9, mode="edge"), kernel / kernel.sum(), mode="valid")
    density = EVENNESS * density / density.mean() + (1 - EVENNESS)
    return np.interp(points, edges, np.concatenate([[0.0], np.cumsum(density) / density.sum()]))


def _check_orientation(uvs: FloatArray, uv_faces: IntArray) -> None:
    a, b, c = (uvs[uv_faces[:, i]] for i in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    turned = int((area >= 0).sum())
    if turned:
        raise ValueError(f"the texture atlas turns {turned} faces over; lower EVENNESS")
