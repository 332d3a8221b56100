"""Replace our fit with another tracker's parameters: convert its camera, check both by the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from rome_lightning.tracking.embedding import with_landmarks
from rome_lightning.tracking.foreign.cameras import CropCamera, PinholeCamera
from rome_lightning.tracking.foreign.formats import FlameTrack
from rome_lightning.tracking.problems import Problem
from rome_lightning.tracking.tracker import TrackedClip
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import LEFT_IRIS, NUM_SKIN, RIGHT_IRIS

MOST_RESIDUAL = 0.15
"""Landmark error, in interocular distances, beyond which parameters do not belong to the picture; trackers
with other landmarks differ from ours by less than half of it."""


@dataclass(frozen=True)
class Applied:
    """A clip with another tracker's parameters."""

    clip: TrackedClip
    camera_error: Float[Tensor, " n"] | None
    """Mean distance between the face's vertices in the other tracker's projection and in ours, in interocular
    distances; None if it has no camera, so that ours is fitted to the landmarks."""


def apply_track(
    head: HeadModel,
    clip: TrackedClip,
    track: FlameTrack,
    shape: Float[Tensor, " s"] | None = None,
    picture_size: tuple[int, int] | None = None,
) -> Applied:
    """Replace the parameters of a tracked clip.

    The camera is the weak perspective nearest to the other tracker's projection of the face. It is exact for
    cameras like DECA's; from a perspective camera, it keeps the direction and size of the head. Frames
    that our landmarks contradict by more than ``MOST_RESIDUAL`` are marked ``POOR_FIT``.

    Args:
        head: FLAME; it gets MediaPipe's landmarks if it has none.
        clip: in which the tracker found the person.
        track: one row per frame of the clip.
        shape: identity of all frames, as many coefficients as the track has; its mean, if None.
        picture_size: height and width of the pictures that the other tracker saw, if ours saw them
            downscaled.

    Raises:
        ValueError: the head is not FLAME, or the counts differ.
    """
    if head.pose_basis is None:
        raise ValueError(
            f"parameters of {track.kind} are FLAME's, the head is {head.name}; use a model or a head option "
            "with the path of FLAME's generic_model.pkl"
        )
    if len(track) != len(clip):
        raise ValueError(f"{len(track)} rows of parameters for {len(clip)} pictures")
    head = with_landmarks(head)
    own = _head_params(head, track)
    shape = track.shape.mean(0) if shape is None else shape
    params = replace(own, shape=_fitted_width(shape[None], head.num_shape).expand_as(own.shape))
    size = clip.images.shape[-2]
    if track.camera is None:
        points, goals = head.landmarks(head.to_world(head(params), params)), clip.landmarks
        params = replace(params, camera=_nearest_camera(points, pixels_to_ndc(goals, (size, size))))
        error = None
    else:
        seen = picture_size or clip.crop.frame_size
        goals, params = _converted(head, clip, track.camera, seen, own, params)
        face = head.region("face")
        found = _in_picture(head, params, size)[:, face, :2]
        error = (found - goals).norm(dim=-1).mean(1) / _iris_distance(head, params, size)
    residual = _residual(head, clip, params)
    shown = (clip.problems & int(Problem.NO_FACE)) == 0
    poor = shown & ~(residual <= MOST_RESIDUAL)
    problems = clip.problems & ~int(Problem.POOR_FIT) | (int(Problem.POOR_FIT) * poor).to(clip.problems.dtype)
    residual = torch.where(shown, residual, torch.nan)
    return Applied(replace(clip, params=params, residual=residual, problems=problems), error)


def apply_to_photos(
    head: HeadModel,
    clips: Sequence[TrackedClip],
    tracks: Sequence[FlameTrack],
    names: Sequence[str],
    warn: Callable[[str], None],
) -> list[TrackedClip]:
    """``apply_track`` for photographs of one person, who gets the mean identity.

    Args:
        head: FLAME.
        clips: of one frame each.
        tracks: of one row each.
        names: of the photographs, for messages.
        warn: called with everything that the parameters cannot represent.

    Raises:
        ValueError: as for ``apply_track``, or parameters do not belong to their photograph.
    """
    # Trackers estimate different numbers of coefficients; those beyond are 0.
    widest = max(track.shape.shape[1] for track in tracks)
    shape = torch.cat([_fitted_width(track.shape, widest) for track in tracks]).mean(0)
    result = []
    for clip, track, name in zip(clips, tracks, names, strict=True):
        applied = apply_track(head, clip, track, shape)
        if int(applied.clip.problems[0]) & Problem.POOR_FIT:
            raise ValueError(
                f"the parameters do not fit {name}: its landmarks are "
                f"{float(applied.clip.residual[0]):.0%} of the interocular distance away from the head's "
                f"(at most {MOST_RESIDUAL:.0%}); is it the picture that {track.kind} saw, and if that was "
                "a crop, does the file have tform?"
            )
        for text in describe(track, applied):
            warn(f"{name}: {text}")
        result.append(applied.clip)
    return result


def describe(track: FlameTrack, applied: Applied) -> list[str]:
    """What is lost of each track, as text; empty if nothing is."""
    texts = [f"{text}: ignored, because FLAME's parameters do not have them" for text in track.left_out]
    if isinstance(track.camera, PinholeCamera) and applied.camera_error is not None:
        texts.append(
            f"the camera of {track.kind} has perspective, ours does not: the two projections of the face "
            f"differ by {float(applied.camera_error.median()):.1%} of the interocular distance"
        )
    return texts


def _head_params(head: HeadModel, track: FlameTrack) -> HeadParams:
    """The track's parameters for the head, with as many coefficients as it has and no camera yet."""
    return HeadParams(
        shape=_fitted_width(track.shape, head.num_shape),
        expression=_fitted_width(track.expression, head.num_expression),
        global_pose=track.global_pose,
        neck_pose=track.neck_pose,
        jaw_pose=track.jaw_pose,
        eye_pose=track.eye_pose,
        camera=torch.zeros(len(track), 3),
    )


def _fitted_width(values: Float[Tensor, "n k"], width: int) -> Float[Tensor, "n w"]:
    """Principal components are sorted by size: surplus ones are dropped, missing ones are 0."""
    return F.pad(values[:, :width], (0, max(width - values.shape[1], 0)))


def _converted(
    head: HeadModel,
    clip: TrackedClip,
    camera: CropCamera | PinholeCamera,
    picture_size: tuple[int, int],
    own: HeadParams,
    params: HeadParams,
) -> tuple[Float[Tensor, "n v 2"], HeadParams]:
    """The face's vertices where the other tracker sees them, pixels of the crop; and our parameters."""
    size = clip.images.shape[-2]
    vertices = head.to_world(head(own), own)[:, head.region("face")]
    reduction = clip.crop.frame_size[0] / picture_size[0]
    in_frame = (camera.project(vertices, picture_size) + 0.5) * reduction - 0.5
    goals = clip.crop.to_crop(in_frame, size)
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


def _residual(head: HeadModel, clip: TrackedClip, params: HeadParams) -> Float[Tensor, " n"]:
    """Mean distance of the landmarks to those that were detected, in distances of the irises."""
    size = clip.images.shape[-2]
    points = head.landmarks(_in_picture(head, params, size))[:, :NUM_SKIN, :2]
    distance = (points - clip.landmarks[:, :NUM_SKIN]).norm(dim=-1).mean(1)
    return distance / _iris_distance(head, params, size)


def rows_of(track: FlameTrack, names: Sequence[str]) -> FlameTrack:
    """The rows of pictures by name, or in order where the track has no names.

    Args:
        track: of a whole clip.
        names: of the pictures without suffix; VHAP's time step is what follows the last underscore.

    Raises:
        ValueError: a picture has no row, or the counts differ.
    """
    if not track.names:
        if len(track) != len(names):
            raise ValueError(f"{len(names)} pictures, but parameters of {len(track)} frames")
        return track
    places = {name: row for row, name in enumerate(track.names)}
    if len(places) < len(track.names):
        twice = next(name for name in track.names if track.names.count(name) > 1)
        raise ValueError(f"the parameters name {twice} more than once, so its picture is not known")
    rows = [places.get(name, places.get(name.rpartition("_")[2])) for name in names]
    lacking = [name for name, row in zip(names, rows, strict=True) if row is None]
    if lacking:
        raise ValueError(f"no parameters for picture {lacking[0]} ({len(lacking)} of {len(names)} lack them)")
    return track[torch.tensor(rows)]
