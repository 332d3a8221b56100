"""Other trackers' parameters as ours: their camera becomes the nearest weak perspective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.geometry import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    pixels_to_ndc,
    project,
)
from rome_lightning.head import HeadModel
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.embedding import with_landmarks
from rome_lightning.tracking.foreign.cameras import CropCamera, PinholeCamera
from rome_lightning.tracking.foreign.formats import FlameTrack
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import LEFT_IRIS, NUM_SKIN, RIGHT_IRIS

MOST_RESIDUAL = 0.15
"""Landmark error, in interocular distances, beyond which parameters do not belong to the picture; trackers
with other landmarks differ from ours by less than half of it."""


@dataclass(frozen=True)
class Converted:
    """Another tracker's parameters in the crop of a clip."""

    params: HeadParams
    residual: Float[Tensor, " n"]
    """Mean distance of the landmarks to those that were detected, in distances of the irises; without
    meaning in frames without a face."""
    camera_error: Float[Tensor, " n"] | None
    """See ``Applied``."""


def convert(
    head: HeadModel,
    track: FlameTrack,
    crop: Crop,
    landmarks: Float[Tensor, "n 478 2"],
    size: int,
    shape: Float[Tensor, " s"] | None = None,
    picture_size: tuple[int, int] | None = None,
) -> Converted:
    """Convert parameters and camera; see ``apply_track``.

    Args:
        head: FLAME; it gets MediaPipe's landmarks if it has none.
        track: one row per frame.
        crop: the square of the pictures that our camera refers to.
        landmarks: MediaPipe's, pixels of the crop.
        size: side of the crop, pixels.
        shape: see ``apply_track``.
        picture_size: see ``apply_track``.

    Raises:
        ValueError: the head is not FLAME.
    """
    check_flame(head, track.kind)
    head = with_landmarks(head)
    own = _head_params(head, track)
    shape = track.shape.mean(0) if shape is None else shape
    params = replace(own, shape=fitted_width(shape[None], head.num_shape).expand_as(own.shape))
    if track.camera is None:
        points = head.landmarks(head.to_world(head(params), params))
        params = replace(params, camera=_nearest_camera(points, pixels_to_ndc(landmarks, (size, size))))
        error = None
    else:
        seen = picture_size or crop.frame_size
        goals, params = _converted(head, crop, size, track.camera, seen, own, params)
        face = head.region("face")
        found = _in_picture(head, params, size)[:, face, :2]
        error = (found - goals).norm(dim=-1).mean(1) / _iris_distance(head, params, size)
    return Converted(params, _residual(head, landmarks, size, params), error)


def check_flame(head: HeadModel, kind: str) -> None:
    """Refuse a head that another tracker's parameters do not belong to.

    Raises:
        ValueError: the head is not FLAME.
    """
    if head.pose_basis is None:
        raise ValueError(
            f"parameters of {kind} are FLAME's, the head is {head.name}; use a model or a head option "
            "with the path of FLAME's generic_model.pkl"
        )


def with_shape(head: HeadModel, params: HeadParams, shape: Float[Tensor, " s"]) -> HeadParams:
    """The same heads with another identity, and the cameras that keep each face where it was.

    Args:
        head: any.
        params: of each picture.
        shape: the identity.
    """
    face = head.region("face")
    goals = project(head.to_world(head(params), params)[:, face], params.camera, (2, 2))[..., :2]
    moved = replace(params, shape=shape.expand_as(params.shape).contiguous())
    points = head.to_world(head(moved), moved)[:, face]
    return replace(moved, camera=_nearest_camera(points, pixels_to_ndc(goals, (2, 2))))


def _head_params(head: HeadModel, track: FlameTrack) -> HeadParams:
    """The track's parameters for the head, with as many coefficients as it has and no camera yet."""
    return HeadParams(
        shape=fitted_width(track.shape, head.num_shape),
        expression=fitted_width(track.expression, head.num_expression),
        global_pose=track.global_pose,
        neck_pose=track.neck_pose,
        jaw_pose=track.jaw_pose,
        eye_pose=track.eye_pose,
        camera=torch.zeros(len(track), 3),
    )


def fitted_width(values: Float[Tensor, "n k"], width: int) -> Float[Tensor, "n w"]:
    """Principal components are sorted by size: surplus ones are dropped, missing ones are 0."""
    return F.pad(values[:, :width], (0, max(width - values.shape[1], 0)))


def _converted(
    head: HeadModel,
    crop: Crop,
    size: int,
    camera: CropCamera | PinholeCamera,
    picture_size: tuple[int, int],
    own: HeadParams,
    params: HeadParams,
) -> tuple[Float[Tensor, "n v 2"], HeadParams]:
    """The face's vertices where the other tracker sees them, pixels of the crop; and our parameters."""
    vertices = head.to_world(head(own), own)[:, head.region("face")]
    reduction = crop.frame_size[0] / picture_size[0]
    in_frame = (camera.project(vertices, picture_size) + 0.5) * reduction - 0.5
    goals = crop.to_crop(in_frame, size)
    turn = camera.turns(vertices.mean(1))
    turned = matrix_to_axis_angle(turn @ axis_angle_to_matrix(params.global_pose))
    params = replace(params, global_pose=turned)
    points = head.to_world(head(params), params)[:, head.region("face")]
    return goals, replace(params, camera=_nearest_camera(points, pixels_to_ndc(goals, (size, size))))


def _nearest_camera(
    points_world: Float[Tensor, "n v 3"], goals_ndc: Float[Tensor, "n v 2"]
) -> Float[Tensor, "n 3"]:
    """Weak perspective of least squares."""
    points = points_world[..., :2]
    goals = goals_ndc * goals_ndc.new_tensor([1.0, -1.0])
    centre, goal = points.mean(1), goals.mean(1)
    local, wanted = points - centre[:, None], goals - goal[:, None]
    scale = (local * wanted).sum((1, 2)) / local.square().sum((1, 2))
    # Frames without a face have no targets; they are unused but must stay finite.
    scale = torch.where(scale.abs() > 1e-6, scale, torch.ones_like(scale))
    return torch.cat([scale[:, None], goal / scale[:, None] - centre], dim=1)


def _in_picture(head: HeadModel, params: HeadParams, size: int) -> Float[Tensor, "n v 3"]:
    return project(head.to_world(head(params), params), params.camera, (size, size))


def _iris_distance(head: HeadModel, params: HeadParams, size: int) -> Float[Tensor, " n"]:
    """Distance of the irises in space as the camera scales it, pixels of the crop."""
    points = head.landmarks(head(params))
    distance = (points[:, LEFT_IRIS[0]] - points[:, RIGHT_IRIS[0]]).norm(dim=-1)
    return distance * params.camera[:, 0].abs() * size / 2


def _residual(
    head: HeadModel, landmarks: Float[Tensor, "n 478 2"], size: int, params: HeadParams
) -> Float[Tensor, " n"]:
    """Mean distance of the landmarks to those that were detected, in distances of the irises."""
    points = head.landmarks(_in_picture(head, params, size))[:, :NUM_SKIN, :2]
    distance = (points - landmarks[:, :NUM_SKIN]).norm(dim=-1).mean(1)
    return distance / _iris_distance(head, params, size)
