"""A texture layout for a head that comes without one.

Projections on a cylinder or sphere fold a head over itself at the ears, nose and neck. The layout here
has neither folds nor overlaps: every chart is a disc mapped to a strictly convex outline with positive
weights, which is injective whatever the shape (Tutte's theorem). The head is cut up the back of the
neck to the crown and fills the upper part of the texture, face in the middle; other pieces (eyeballs)
are split into front and back and stand in a row below it. Texture area follows the outline, not the
importance of a region: an artist's layout, where there is one, gives the face more texels.

Source: Floater, Mean value coordinates, 2003; Tutte, How to draw a graph, 1963.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from rome_lightning.head.topology import (
    FloatArray,
    IntArray,
    boundary_loops,
    cut_along,
    face_components,
    shortest_path,
)

HEAD_HEIGHT = 0.82
"""Part of the texture's height that the head takes; the other pieces share the rest."""
PADDING = 0.012
"""Free border of every chart, in units of the texture: 3 texels of 256."""


def compute_atlas(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Texture coordinates without folds or overlaps.

    Args:
        vertices: (v, 3) mean head, +y up, +z out of the face.
        faces: (f, 3); the largest piece is the head, open at the neck.

    Returns:
        (u, 2) coordinates in [0, 1], v down, and (f, 3) indices into them.
    """
    pieces = face_components(faces)
    head = int(np.bincount(pieces).argmax())
    charts = [(np.flatnonzero(pieces == head), *_head_chart(vertices, faces[pieces == head]))]
    for piece in np.unique(pieces[pieces != head]):
        charts += _side_charts(vertices, faces, np.flatnonzero(pieces == piece))
    boxes = _boxes(len(charts))
    uvs, uv_faces, start = [], np.zeros_like(faces), 0
    for (members, chart_uvs, chart_faces), (low, high) in zip(charts, boxes, strict=True):
        if (_signed_areas(chart_uvs, chart_faces) <= 0).any():
            raise ValueError("no layout without folds was found for this mesh; pass one as uv_path")
        # Charts are drawn with v up; textures have v down.
        flipped = chart_uvs * [1, -1] / 2 + 0.5
        uvs.append(low + PADDING + flipped * (high - low - 2 * PADDING))
        uv_faces[members] = chart_faces + start
        start += len(chart_uvs)
    return np.concatenate(uvs), uv_faces


def _boxes(count: int) -> list[tuple[FloatArray, FloatArray]]:
    """Upper left and lower right corner of each chart's place."""
    boxes = [(np.zeros(2), np.array([1.0, HEAD_HEIGHT if count > 1 else 1.0]))]
    side = min(1 - HEAD_HEIGHT, 1 / max(count - 1, 1))
    for i in range(count - 1):
        low = np.array([i / (count - 1), HEAD_HEIGHT])
        boxes.append((low, low + side))
    return boxes


def _signed_areas(uvs: FloatArray, faces: IntArray) -> FloatArray:
    a, b, c = (uvs[faces[:, k]] for k in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def _head_chart(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """The head as a rounded square: neck below, crown in the middle of the upper side."""
    loops = boundary_loops(faces)
    if not loops:
        raise ValueError("the head has no opening at the neck; pass a texture layout as uv_path")
    neck = min(loops, key=lambda loop: vertices[loop, 1].mean())
    used = np.unique(faces)
    back, crown = int(neck[vertices[neck, 2].argmin()]), int(used[vertices[used, 1].argmax()])
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    size = np.ptp(vertices[used], axis=0).max()
    off_centre = np.abs(vertices[ends, 0] - vertices[crown, 0]).mean(1) / size
    costs = np.linalg.norm(vertices[ends[:, 0]] - vertices[ends[:, 1]], axis=1) * (1 + 50 * off_centre)
    other = np.concatenate(loops)
    costs[np.isin(ends, other[other != back]).any(1)] = np.inf
    path = shortest_path(faces, costs, back, crown)
    opened, doubles = cut_along(faces, path, len(vertices))
    positions = np.concatenate([vertices, vertices[doubles]])
    outline = next(loop for loop in boundary_loops(opened) if crown in loop)
    # The right copy of the cut comes first: from it the outline runs along the neck to the left copy.
    outline = np.roll(outline, -_place(outline, len(vertices)))
    ends_of_arcs = [0, len(neck), _place(outline, crown), len(outline)]
    places = np.concatenate(
        [
            _along(positions, outline, ends_of_arcs[k], ends_of_arcs[k + 1], angles)
            for k, angles in enumerate([(-0.75, -0.25), (-0.25, 0.5), (0.5, 1.25)])
        ]
    )
    return _compact(_tutte(positions, opened, outline, places), opened)


def _place(outline: IntArray, vertex: int) -> int:
    return int(np.flatnonzero(outline == vertex)[0])


def _along(
    positions: FloatArray, outline: IntArray, start: int, end: int, angles: tuple[float, float]
) -> FloatArray:
    """Points of a rounded square for outline[start:end], spaced as on the mesh.

    ``angles`` are in units of pi, counter-clockwise from the right.
    """
    points = positions[np.take(outline, np.arange(start, end + 1), mode="wrap")]
    steps = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    dense = np.linspace(*angles, 4096) * np.pi
    curve = np.stack([np.cos(dense), np.sin(dense)], 1)
    curve /= (np.abs(curve) ** 6).sum(1, keepdims=True) ** (1 / 6)
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    wanted = np.interp(steps[:-1] / steps[-1] * lengths[-1], lengths, dense)
    place = np.stack([np.cos(wanted), np.sin(wanted)], 1)
    return place / (np.abs(place) ** 6).sum(1, keepdims=True) ** (1 / 6)


def _side_charts(
    vertices: FloatArray, faces: IntArray, members: IntArray
) -> list[tuple[IntArray, FloatArray, IntArray]]:
    """Charts of a smaller piece: what faces the front and what does not, each on a disc."""
    a, b, c = (vertices[faces[members, k]] for k in range(3))
    front = np.cross(b - a, c - a)[:, 2] > 0
    charts = []
    for side in (members[front], members[~front]):
        labels = face_components(faces[side], across_edges=True) if len(side) else np.zeros(0)
        for label in np.unique(labels):
            part = side[labels == label]
            loops = boundary_loops(faces[part])
            outline = max(loops, key=lambda loop: np.ptp(vertices[loop], axis=0).sum())
            # Seen from the front the disc stands upright, whichever vertex its outline starts with.
            around = vertices[outline, :2] - vertices[outline, :2].mean(0)
            turn = np.arctan2(around[0, 1], around[0, 0])
            angles = turn + 2 * np.pi * np.arange(len(outline)) / len(outline)
            places = np.stack([np.cos(angles), np.sin(angles)], 1)
            charts.append((part, *_compact(_tutte(vertices, faces[part], outline, places), faces[part])))
    return charts


def _compact(uvs: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    used, indices = np.unique(faces, return_inverse=True)
    return uvs[used], indices.reshape(-1, 3)


def _tutte(positions: FloatArray, faces: IntArray, outline: IntArray, places: FloatArray) -> FloatArray:
    """Map a disc to the inside of a convex outline with mean value weights.

    Args:
        positions: (v, 3).
        faces: (f, 3); holes other than the outline are closed with a fan for the sake of the map.
        outline: boundary loop.
        places: (n, 2) strictly convex polygon, counter-clockwise, in [-1, 1].

    Returns:
        (v, 2), undefined at vertices without a face.
    """
    fans = []
    for loop in boundary_loops(faces):
        if outline[0] not in loop:
            fans.append(np.stack([np.roll(loop, -1), loop, np.full(len(loop), len(positions))], 1))
            positions = np.concatenate([positions, positions[loop].mean(0, keepdims=True)])
    closed = np.concatenate([faces, *fans])
    count = len(positions)
    weights = coo_matrix((count, count)).tocsr()
    for k in range(3):
        i, j, m = closed[:, k], closed[:, (k + 1) % 3], closed[:, (k + 2) % 3]
        a, b = positions[j] - positions[i], positions[m] - positions[i]
        length_a, length_b = (np.linalg.norm(side, axis=1).clip(1e-9) for side in (a, b))
        sine, cosine = np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)
        # Degenerate triangles (closed lips) would give weights of 0 or infinity.
        half = (sine / (length_a * length_b + cosine).clip(1e-12)).clip(1e-3, 1e3)
        rows, columns = np.concatenate([i, i]), np.concatenate([j, m])
        values = np.concatenate([half / length_a, half / length_b])
        weights = weights + coo_matrix((values, (rows, columns)), shape=(count, count)).tocsr()
    total = np.asarray(weights.sum(1)).reshape(-1)
    inside = np.setdiff1d(np.flatnonzero(total), outline)
    scaled = (diags(1 / total.clip(1e-12)) @ weights).tocsr()
    system = diags(np.ones(len(inside))) - scaled[inside][:, inside]
    result = np.zeros((count, 2))
    result[outline] = places
    result[inside] = spsolve(system.tocsc(), scaled[inside][:, outline] @ places).reshape(-1, 2)
    return result
