"""MediaPipe's 478 landmarks on a FLAME mesh, transferred from the open head, so that FLAME can be fitted.

This needs only FLAME's model file: the open head is fitted to FLAME's mean head, and each of its landmarks
maps to the nearest point of FLAME's surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.interpolate import RBFInterpolator
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from torch import Tensor

from rome_lightning.head.data import LandmarkEmbedding
from rome_lightning.head.model import HeadModel
from rome_lightning.head.open_head import load_open_head
from rome_lightning.head.topology import FloatArray, IntArray, boundary_loops, face_components
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import INNER_LIPS, LEFT_LIDS, OUTER_LIPS, RIGHT_LIDS

_STEPS = 12
_SHAPE_PRIOR = 2e-7
"""Cost of a squared standard deviation of the open head's identity, against squared metres per point."""
_FAR_M = 0.03
"""Points of the open head farther than this from FLAME's surface are ignored; the limit falls to a fifth."""
_NUM_CANDIDATES = 24
_NORMAL_M = 0.01
"""Distance equivalent of one radian between normals."""
_LIP_REACH_M = 0.03
"""Along the skin, from the rims inside the mouth."""
_FRONTAL = 0.1
"""Smallest component towards the viewer of a lip vertex's normal."""
_OWN_LIP = 0.75
"""A vertex of a lip is nearer to its rim than this part of the distance to the other one's."""
_SEEN_WIDTH = 0.9
"""Of the mouth between the corners of its rims; the rest is behind the lips."""
_LIP_COLUMNS = 12
"""Across the mouth's width."""
_FEATURES = (*range(36, 49), 54, *range(60, 68))
"""The 68-point landmarks of eyes, inner lips and mouth corners; others slide, or lie elsewhere on FLAME."""
_ANCHOR_SMOOTHING = 1e-4
_ANCHOR_REACH_M = 0.03
"""Distance from an anchor at which its pull has fallen to a third."""
_LOWER_RATIO = 0.35
"""Landmarks that move at least this share of the chin's way when the jaw opens lie on the lower jaw."""


def add_mediapipe(head: HeadModel) -> HeadModel:
    """The same head, with MediaPipe's landmarks added if it had none."""
    if "mediapipe" not in head.landmark_names:
        head.add_landmarks("mediapipe", register_mediapipe(head))
    return head


def register_mediapipe(head: HeadModel) -> LandmarkEmbedding:
    """MediaPipe's landmarks on a head with FLAME's skeleton and axes.

    Args:
        head: its region ``eyes``, its eye joints and the weights of its jaw are used.
    """
    source = load_open_head()
    target, faces = head.template.view(-1, 3).double().numpy(), head.faces.numpy()
    known = known_points(source, head)
    fitted = fit_open_head(source, target, faces, head.joint_template.view(5, 3).double(), known)
    corners = source.get_buffer("landmark_corners_mediapipe")
    weights = source.get_buffer("landmark_weights_mediapipe").double()[..., None]
    points = (fitted.vertices[corners] * weights).sum(1).numpy()
    points = _pulled(points, fitted.placed(known.template, known.basis).numpy(), known.goals.numpy())
    normals = _normals(fitted.vertices.numpy(), source.faces.numpy())[corners.numpy()]
    normals = (normals * weights.numpy()).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return embed_mediapipe(head, points, normals)


def embed_mediapipe(
    head: HeadModel, points: FloatArray, normals: FloatArray | None = None
) -> LandmarkEmbedding:
    """The nearest places on a head's surface for points that stand for MediaPipe's landmarks.

    Args:
        head: at rest.
        points: (478, 3).
        normals: see ``nearest_on_surface``.
    """
    source = load_open_head()
    target, faces = head.template.view(-1, 3).double().numpy(), head.faces.numpy()
    corners = source.get_buffer("landmark_corners_mediapipe")
    # A face belongs to an eye or to the skin, and at the mouth to one lip; so does a landmark.
    eyeballs = source.region("eyes")[corners].all(1).numpy()
    lips, lids = np.zeros((2, len(points)), dtype=bool)
    lips[[*INNER_LIPS, *OUTER_LIPS]] = True
    lids[[*LEFT_LIDS, *RIGHT_LIDS]] = True
    lower = _moves_with_jaw(source, corners, source.get_buffer("landmark_weights_mediapipe").double())
    eye_faces = _pieces(faces, head.region("eyes").numpy())
    upper_lip, lower_lip = _lip_faces(head, target)
    # The mouth's closing faces have corners on both lips, which the jaw parts.
    closing = np.arange(len(faces)) >= (head.num_open_faces or len(faces))
    embedded = np.zeros(len(points), dtype=np.int64)
    barycentrics = np.zeros((len(points), 3))
    skin = ~eye_faces & ~closing
    # On the edges of lids and lips normals differ from head to head.
    for chosen, allowed, facing in (
        (eyeballs, eye_faces, normals),
        (lids, skin, None),
        (~eyeballs & ~lips & ~lids, skin, normals),
        (lips & lower, skin & lower_lip, None),
        (lips & ~lower, skin & upper_lip, None),
    ):
        if not chosen.any():
            continue
        rows = np.flatnonzero(allowed if allowed.any() else ~closing)
        directions = None if facing is None else facing[chosen]
        found, inside = nearest_on_surface(points[chosen], target, faces[rows], directions)
        embedded[chosen], barycentrics[chosen] = rows[found], inside
    return LandmarkEmbedding(torch.from_numpy(embedded), torch.from_numpy(barycentrics).float())


@dataclass(frozen=True)
class KnownPoints:
    """Points of the open head whose places on another head are known."""

    template: Float64[Tensor, "k 3"]
    """On the open head's mean, metres."""
    basis: Float64[Tensor, "s k 3"]
    """Displacement per standard deviation of the open head's identities."""
    goals: Float64[Tensor, "k 3"]


def known_points(source: HeadModel, head: HeadModel) -> KnownPoints:
    """Eyes and mouth where the head has the 68 points, else eyeballs and the line between the lips."""
    target = head.template.view(-1, 3)
    template = source.to_vertices(source.template.view(-1, 3)).double()
    shapes = source.basis[: source.num_shape].view(source.num_shape, -1, 3).double()
    basis = source.to_vertices(shapes.transpose(0, 1)).transpose(0, 1)

    def at(name: str, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        corners = source.get_buffer(f"landmark_corners_{name}")[list(rows)]
        weights = source.get_buffer(f"landmark_weights_{name}")[list(rows)].double()[..., None]
        return (template[corners] * weights).sum(1), (basis[:, corners] * weights).sum(2)

    if "ibug68" in head.landmark_names:
        goals = head.landmarks(target[None], "ibug68")[0, list(_FEATURES)]
        return KnownPoints(*at("ibug68", _FEATURES), goals.double())
    joints = source.joint_template.view(5, 3).double()[3:]
    joint_basis = source.joint_basis[: source.num_shape].view(source.num_shape, 5, 3).double()[:, 3:]
    goals = head.joint_template.view(5, 3).double()[3:]
    points = target.double().numpy()
    mouth = _mouth(head, points)
    lips = None if mouth is None else _lips(mouth, points, head.faces[: head.num_open_faces].numpy())
    if mouth is None or lips is None:
        return KnownPoints(joints, joint_basis, goals)
    ring, ring_basis = at("mediapipe", INNER_LIPS)
    line = torch.from_numpy(_along(lips, ring.numpy(), mouth.left, mouth.right))
    return KnownPoints(
        torch.cat([joints, ring]), torch.cat([joint_basis, ring_basis], dim=1), torch.cat([goals, line])
    )


@dataclass(frozen=True)
class _Mouth:
    """The rims of FLAME's mouth, which are inside it: the skin goes on behind the lips."""

    to_upper: FloatArray
    """Of each vertex, along the skin, from the rim of the upper lip, metres; infinite where far."""
    to_lower: FloatArray
    left: float
    right: float
    """x of its corners in the face of a viewer, metres."""


def _mouth(head: HeadModel, target: FloatArray) -> _Mouth | None:
    """The mouth of a head that is closed by faces of their own; None for others."""
    faces, count = head.faces.numpy(), head.num_open_faces
    if count is None or len(faces) - count < 2:
        return None
    ring = boundary_loops(faces[count:])[0]
    ring = np.roll(ring, -int(target[ring, 0].argmin()))
    corner = int(target[ring, 0].argmax())
    jaw = head.skinning_weights[:, 2].numpy()
    rims = sorted((ring[1:corner], ring[corner + 1 :]), key=lambda rim: float(jaw[rim].mean()))
    edges = faces[:count][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    lengths = np.linalg.norm(target[edges[:, 0]] - target[edges[:, 1]], axis=1)
    graph = coo_matrix((lengths, edges.T), (len(target), len(target))).tocsr()
    upper, lower = (
        dijkstra(graph, directed=False, indices=rim, min_only=True, limit=_LIP_REACH_M) for rim in rims
    )
    middle = (target[ring[0], 0] + target[ring[corner], 0]) / 2
    half = _SEEN_WIDTH * (target[ring[corner], 0] - target[ring[0], 0]) / 2
    return _Mouth(upper, lower, middle - half, middle + half)


def _lip_faces(head: HeadModel, target: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    """Faces of the upper and of the lower lip."""
    faces, mouth = head.faces.numpy(), _mouth(head, target)
    if mouth is None:
        lower = np.asarray(head.skinning_weights[:, 2].numpy()[faces].mean(1) > 0.5)
        return ~lower, lower
    far = 2 * _LIP_REACH_M
    upper, lower = (np.minimum(distance, far)[faces].sum(1) for distance in (mouth.to_upper, mouth.to_lower))
    return np.asarray(upper < lower), np.asarray(lower < upper)


def _lips(mouth: _Mouth, target: FloatArray, faces: IntArray) -> tuple[FloatArray, FloatArray] | None:
    """Upper and lower lip along the line where they meet, each by rising x: where they face the viewer."""
    front = _normals(target, faces)[:, 2] > _FRONTAL
    columns = np.linspace(mouth.left, mouth.right, _LIP_COLUMNS + 1)
    lips = []
    for mine, other, up in ((mouth.to_upper, mouth.to_lower, 1), (mouth.to_lower, mouth.to_upper, -1)):
        own = np.flatnonzero(front & (mine < _OWN_LIP * np.minimum(other, 1)))
        column = np.digitize(target[own, 0], columns)
        shown = [own[column == k] for k in range(1, _LIP_COLUMNS + 1) if (column == k).any()]
        if len(shown) < 2:
            return None
        lips.append(target[[rows[(up * target[rows, 1]).argmin()] for rows in shown]])
    return lips[0], lips[1]


def _along(lips: tuple[FloatArray, FloatArray], ring: FloatArray, left: float, right: float) -> FloatArray:
    """Points of the lips at the same share of the mouth's width as those of a ring around another mouth."""
    share = (ring[:, 0] - ring[:, 0].min()) / np.ptp(ring[:, 0])
    half = len(ring) // 2
    result = np.empty_like(ring)
    for lip, rows in zip(lips, _halves(ring, half), strict=True):
        x = left + share[rows] * (right - left)
        result[rows] = np.stack([x, *(np.interp(x, lip[:, 0], lip[:, axis]) for axis in (1, 2))], 1)
    return result


def _halves(ring: FloatArray, half: int) -> tuple[IntArray, IntArray]:
    """Rows of the ring's upper and lower half; the order of ``INNER_LIPS`` runs along one, then the other."""
    first, second = np.arange(half), np.arange(half, len(ring))
    return (first, second) if ring[first, 1].mean() > ring[second, 1].mean() else (second, first)


def _pulled(points: FloatArray, anchors: FloatArray, goals: FloatArray) -> FloatArray:
    """Points moved as their anchors are, smoothly in between."""
    if len(anchors) < 4:
        return points
    distance = np.linalg.norm(points[:, None] - anchors[None], axis=-1)
    moves = RBFInterpolator(anchors, goals - anchors, kernel="linear", smoothing=_ANCHOR_SMOOTHING)(points)
    reach: FloatArray = np.exp(-((distance.min(1) / _ANCHOR_REACH_M) ** 2))
    result: FloatArray = points + moves * reach[:, None]
    return result


def _pieces(faces: IntArray, eyes: np.ndarray) -> np.ndarray:
    """Faces of the eyeballs: their region, or pieces of their own."""
    labels = face_components(faces)
    own = labels != np.bincount(labels).argmax()
    marked = np.asarray(eyes[faces].all(1))
    both = np.asarray(marked & own)
    return both if both.any() else marked


def _moves_with_jaw(head: HeadModel, corners: Tensor, weights: Tensor) -> np.ndarray:
    """Landmarks that the opening jaw carries."""
    basis = head.basis[head.num_shape + head.expression_names.index("jawOpen")].view(-1, 3)
    moved = (head.to_vertices(basis)[corners].double() * weights[..., None]).sum(1).norm(dim=-1)
    return (moved > _LOWER_RATIO * moved.max()).numpy()


@dataclass(frozen=True)
class FittedHead:
    """The open head with the identity and at the place of another head."""

    vertices: Float64[Tensor, "v 3"]
    """Metres, axes of the other head."""
    scale: float
    rotation: Float64[Tensor, "3 3"]
    shift: Float64[Tensor, " 3"]
    """Of the similarity from the open head's space."""
    shape: Float64[Tensor, " s"]

    def placed(
        self, template: Float64[Tensor, "k 3"], basis: Float64[Tensor, "s k 3"]
    ) -> Float64[Tensor, "k 3"]:
        """Points of the open head with this identity, in the other head's axes."""
        own = template + torch.einsum("s,skx->kx", self.shape, basis)
        return self.scale * own @ self.rotation.T + self.shift


def fit_open_head(
    head: HeadModel,
    target: FloatArray,
    faces: IntArray,
    target_joints: Float64[Tensor, "5 3"],
    known: KnownPoints | None = None,
) -> FittedHead:
    """The open head fitted to the shape of FLAME's mean head.

    Iterated closest points with point-to-plane distances: similarity and identity are solved together.

    Args:
        head: the open head.
        target: vertices to come near, metres, (v, 3).
        faces: of the target, (f, 3).
        target_joints: only the eyes' are used, to begin with.
        known: points with given goals, which count as much as the surface.
    """
    neutral = HeadParams.neutral(1, head.num_shape, head.num_expression)
    used = head.region("face", "ears", "eyes")[: head.num_carriers].nonzero().squeeze(1)
    template = head.template.view(-1, 3).double()
    basis = head.basis[: head.num_shape].view(head.num_shape, -1, 3).double()
    joints = head.joint_template.view(5, 3).double()
    scale, rotation, shift = _aligned(joints, target_joints)
    shape = torch.zeros(head.num_shape, dtype=torch.float64)
    normals = _normals(target, faces)
    tree = cKDTree(target)
    for step in range(_STEPS):
        local = template[used] + torch.einsum("k,kvx->vx", shape, basis[:, used])
        placed = scale * local @ rotation.T + shift
        distance, nearest = tree.query(placed.numpy())
        normal = torch.from_numpy(normals[nearest])
        gap = ((torch.from_numpy(target[nearest]) - placed) * normal).sum(1)
        reach = _FAR_M * (1 - 0.8 * step / (_STEPS - 1))
        weight = torch.from_numpy((distance < reach).astype(np.float64)) / len(used)
        by_shape = torch.einsum("kvx,vx->vk", scale * basis[:, used] @ rotation.T, normal)
        centre = placed.mean(0)
        turned = torch.linalg.cross(placed - centre, normal)
        jacobian = torch.cat(
            [by_shape, turned, normal, ((placed - centre) * normal).sum(1, keepdim=True)], dim=1
        )
        system = jacobian.T @ (weight[:, None] * jacobian)
        right = jacobian.T @ (weight * gap)
        if known is not None:
            by_known, missing = _pull(known, shape, scale, rotation, shift, centre)
            system = system + by_known.T @ by_known / len(known.goals)
            right = right + by_known.T @ missing / len(known.goals)
        prior = torch.full((head.num_shape,), _SHAPE_PRIOR, dtype=torch.float64)
        system.diagonal()[: head.num_shape] += prior
        right[: head.num_shape] -= prior * shape
        system.diagonal()[head.num_shape :] += 1e-9
        solved = torch.linalg.solve(system, right)
        shape = shape + solved[: head.num_shape]
        turn = torch.linalg.matrix_exp(_cross_matrix(solved[-7:-4])) * (1 + solved[-1])
        scale = scale * (1 + solved[-1])
        turn_only = turn / (1 + solved[-1])
        rotation = turn_only @ rotation
        shift = turn @ (shift - centre) + centre + solved[-4:-1]
    fitted = head(HeadParams(**{**vars(neutral), "shape": shape[None].float()}))[0].double()
    return FittedHead(scale * fitted @ rotation.T + shift, float(scale), rotation, shift, shape)


def _pull(
    known: KnownPoints, shape: Tensor, scale: Tensor, rotation: Tensor, shift: Tensor, centre: Tensor
) -> tuple[Float64[Tensor, "r u"], Float64[Tensor, " r"]]:
    """Derivatives of known points by identity, turn, shift and growth about a centre; what they lack."""
    placed = scale * (known.template + torch.einsum("s,skx->kx", shape, known.basis)) @ rotation.T + shift
    by_shape = (scale * known.basis @ rotation.T).permute(1, 2, 0)
    lever, axes = placed - centre, torch.eye(3, dtype=placed.dtype)
    by_turn = torch.linalg.cross(axes[:, None].expand(3, len(lever), 3), lever.expand(3, -1, 3))
    by_shift = axes.expand(len(lever), 3, 3)
    columns = [by_shape, by_turn.permute(1, 2, 0), by_shift, lever[..., None]]
    return torch.cat(columns, dim=2).flatten(0, 1), (known.goals - placed).flatten()


def _aligned(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift that bring eye joints together; FLAME's axes are those of the open head."""
    scale = (target[3] - target[4]).norm() / (source[3] - source[4]).norm()
    rotation = torch.eye(3, dtype=torch.float64)
    return scale, rotation, target[3:].mean(0) - scale * source[3:].mean(0)


def _cross_matrix(vector: Tensor) -> Tensor:
    x, y, z = vector.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


def _normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Area-weighted unit normals of the vertices."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], cross)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    result: FloatArray = normals / np.maximum(length, 1e-12)
    return result


def nearest_on_surface(
    points: FloatArray, vertices: FloatArray, faces: IntArray, normals: FloatArray | None = None
) -> tuple[IntArray, FloatArray]:
    """Nearest triangle of each point, and the barycentric weights of the nearest point on it.

    Args:
        points: (n, 3).
        vertices: (v, 3).
        faces: (f, 3); only the triangles with the nearest centres are looked at.
        normals: of the points, unit length, (n, 3): triangles that face elsewhere count as farther away, so
            that the tip of a nose stays one, and a lip goes to a lip.
    """
    corners = vertices[faces]
    own = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    own = _NORMAL_M * own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    wanted = np.zeros_like(points) if normals is None else _NORMAL_M * normals
    own = np.zeros_like(own) if normals is None else own
    tree = cKDTree(np.concatenate([corners.mean(1), own], axis=1))
    _, candidates = tree.query(np.concatenate([points, wanted], axis=1), k=min(_NUM_CANDIDATES, len(faces)))
    candidates = candidates.reshape(len(points), -1)
    weights = _closest_weights(points[:, None], corners[candidates])
    offsets = (weights[..., None] * corners[candidates]).sum(2) - points[:, None]
    turned = own[candidates] - wanted[:, None]
    best = ((offsets**2).sum(-1) + (turned**2).sum(-1)).argmin(1)
    rows = np.arange(len(points))
    return candidates[rows, best], weights[rows, best]


def _closest_weights(points: FloatArray, corners: FloatArray) -> FloatArray:
    """Barycentric weights of the points of triangles (..., 3, 3) that are nearest to points (..., 3)."""
    a, b, c = (corners[..., k, :] for k in range(3))
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    best = np.stack([1 - v - w, v, w], -1)
    outside = np.asarray((best < 0).any(-1))
    nearest, choice = np.full(outside.shape, np.inf), best.copy()
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, along = corners[..., i, :], corners[..., j, :] - corners[..., i, :]
        share = ((points - start) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-30)
        share = np.clip(share, 0, 1)
        distance = np.linalg.norm(start + share[..., None] * along - points, axis=-1)
        closer = np.asarray(distance < nearest)
        weights = np.zeros_like(best)
        weights[..., i], weights[..., j] = 1 - share, share
        choice = np.where(closer[..., None], weights, choice)
        nearest = np.minimum(distance, nearest)
    result: FloatArray = np.where(outside[..., None], choice, best)
    return result
