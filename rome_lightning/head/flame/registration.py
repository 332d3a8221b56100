"""MediaPipe's 478 landmarks on a FLAME mesh, carried over from the open head, so that FLAME can be fitted.

No file of FLAME's is needed but the model: the open head is fitted to FLAME's mean head, and each of its
landmarks goes to the nearest point of FLAME's surface.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree
from torch import Tensor

from rome_lightning.head.data import LandmarkEmbedding
from rome_lightning.head.model import HeadModel
from rome_lightning.head.open_head import load_open_head
from rome_lightning.head.topology import FloatArray, IntArray, face_components
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import INNER_LIPS

_STEPS = 12
_SHAPE_PRIOR = 2e-7
"""Cost of a squared standard deviation of the open head's identity, against squared metres per point."""
_FAR_M = 0.03
"""Points of the open head that are farther from FLAME's surface at first say nothing; falls to a fifth."""
_NUM_CANDIDATES = 24
_BRIDGING = 0.6
"""Difference of the jaw's weights within a face that joins the two lips."""
_FEATURES = 17
"""The first of the 68 points that lie on features; those before slide on the contour."""
_ANCHOR_SMOOTHING = 1e-4
_ANCHOR_REACH_M = 0.03
"""Distance from an anchor at which its pull has fallen to a third."""
_LOWER_RATIO = 0.35
"""Landmarks that move at least this share of the chin's way when the jaw opens lie on the lower jaw."""


def add_mediapipe(head: HeadModel) -> HeadModel:
    """The head itself, which has MediaPipe's landmarks from now on if it had none."""
    if "mediapipe" not in head.landmark_names:
        head.add_landmarks("mediapipe", register_mediapipe(head))
    return head


def register_mediapipe(head: HeadModel) -> LandmarkEmbedding:
    """Where MediaPipe's landmarks lie on a head of FLAME's skeleton and axes.

    Args:
        head: its region ``eyes``, its eye joints and the weights of its jaw are used.
    """
    source = load_open_head()
    target = head.template.view(-1, 3).double().numpy()
    faces = head.faces.numpy()
    vertices = _fitted(source, target, faces, head.joint_template.view(5, 3).double())
    corners = source.get_buffer("landmark_corners_mediapipe")
    weights = source.get_buffer("landmark_weights_mediapipe").double()
    points = (vertices[corners] * weights[..., None]).sum(1).numpy()
    points = _pulled(points, *_anchors(source, vertices.numpy(), head, target))
    # A face belongs to an eye, to the lower jaw, or to the rest; so does a landmark, which stays there.
    eyeballs = source.region("eyes")[corners].all(1).numpy()
    lower = _moves_with_jaw(source, corners, weights)
    piece = _pieces(faces, head.region("eyes").numpy())
    jaw_weights = head.skinning_weights[:, 2].numpy()[faces]
    jaw = jaw_weights.mean(1) > 0.5
    # The mouth's closing faces have corners on both lips, which the jaw parts.
    closing = np.ptp(jaw_weights, axis=1) > _BRIDGING
    embedded = np.zeros(len(points), dtype=np.int64)
    barycentrics = np.zeros((len(points), 3))
    for is_eye, is_lower in ((True, False), (False, True), (False, False)):
        chosen = eyeballs if is_eye else ~eyeballs & (lower == is_lower)
        allowed = (piece if is_eye else ~piece & (jaw == is_lower)) & ~closing
        if not chosen.any():
            continue
        rows = np.flatnonzero(allowed if allowed.any() else ~closing)
        found, inside = nearest_on_surface(points[chosen], target, faces[rows])
        embedded[chosen], barycentrics[chosen] = rows[found], inside
    return LandmarkEmbedding(torch.from_numpy(embedded), torch.from_numpy(barycentrics).float())


def _anchors(
    source: HeadModel, placed: FloatArray, head: HeadModel, target: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Points of the fitted open head whose places on the other are known: features, or only the lips."""
    if "ibug68" in head.landmark_names:
        pair = [
            model.landmarks(torch.from_numpy(points)[None].float(), "ibug68")[0, _FEATURES:].double().numpy()
            for model, points in ((source, placed), (head, target))
        ]
        return pair[0], pair[1]
    slits = [
        _lips(model.faces.numpy(), points, model.skinning_weights[:, 2].numpy())
        for model, points in ((head, target),)
    ]
    if slits[0] is None:
        return np.zeros((0, 3)), np.zeros((0, 3))
    corners = source.get_buffer("landmark_corners_mediapipe")[list(INNER_LIPS)]
    weights = source.get_buffer("landmark_weights_mediapipe")[list(INNER_LIPS)].double().numpy()
    ring = (placed[corners.numpy()] * weights[..., None]).sum(1)
    return ring, _along(slits[0], ring)


def _lips(faces: IntArray, vertices: FloatArray, jaw: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Upper and lower lip where they meet, each from the corner of smallest to that of largest x."""
    bridging = faces[np.ptp(jaw[faces], axis=1) > _BRIDGING]
    used = np.unique(bridging)
    if len(used) < 4:
        return None
    order = used[np.argsort(vertices[used, 0])]
    upper, lower = order[jaw[order] <= 0.5], order[jaw[order] > 0.5]
    return vertices[upper], vertices[lower]


def _along(lips: tuple[FloatArray, FloatArray], ring: FloatArray) -> FloatArray:
    """Points of the lips at the same share of the mouth's width as those of a ring around another mouth."""
    low, high = (min(lip[0, 0] for lip in lips), max(lip[-1, 0] for lip in lips))
    share = (ring[:, 0] - ring[:, 0].min()) / np.ptp(ring[:, 0])
    half = len(ring) // 2
    result = np.empty_like(ring)
    for lip, rows in zip(lips, _halves(ring, half), strict=True):
        x = low + share[rows] * (high - low)
        result[rows] = np.stack([np.interp(x, lip[:, 0], lip[:, axis]) for axis in range(3)], 1)
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


def _fitted(head: HeadModel, target: FloatArray, faces: IntArray, target_joints: Tensor) -> Tensor:
    """The open head's vertices in the shape of FLAME's mean head, as near as its identities come.

    Iterated closest points with point-to-plane distances: similarity and identity are solved together.
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
    return scale * fitted @ rotation.T + shift


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
    points: FloatArray, vertices: FloatArray, faces: IntArray
) -> tuple[IntArray, FloatArray]:
    """Nearest triangle of each point, and the barycentric weights of the nearest point on it.

    Args:
        points: (n, 3).
        vertices: (v, 3).
        faces: (f, 3); only the triangles with the nearest centres are looked at.
    """
    centres = vertices[faces].mean(1)
    _, candidates = cKDTree(centres).query(points, k=min(_NUM_CANDIDATES, len(faces)))
    candidates = candidates.reshape(len(points), -1)
    corners = vertices[faces[candidates]]
    weights = _closest_weights(points[:, None], corners)
    distance = np.linalg.norm((weights[..., None] * corners).sum(2) - points[:, None], axis=-1)
    best = distance.argmin(1)
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
