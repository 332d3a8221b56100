"""Neck and shoulders over time: they have no landmarks, and the noise of the head's pose moves them most.

The neck joint lies a decimetre behind and below the face, so a tenth of a degree in the head's rotation or a
hundredth of a per cent in its scale, which the landmarks do not notice, shakes the whole coat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.head import HeadModel
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.gauss_newton import FrameState, LandmarkProblem, windows

_POINT_STRIDE = 4
"""Stride of the vertices that represent the shoulders."""
_STEPS = 3


def gaussian_mean(values: Float[Tensor, "n k"], sigma: float) -> Float[Tensor, "n k"]:
    """Mean of the rows near each row, weighted by a Gaussian of that many rows that ends at the ends."""
    radius = min(int(3 * sigma), len(values) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    columns = torch.cat([values, torch.ones_like(values[:, :1])], dim=1).T[:, None]
    sums = F.conv1d(columns, kernel[None, None], padding=radius).squeeze(1).T
    return sums[:, :-1] / sums[:, -1:]


def local_line(values: Float[Tensor, "n k"], sigma: float) -> Float[Tensor, "n k"]:
    """Value at each row of the line through the rows near it, weighted by a Gaussian of that many rows.

    Within a clip that is the Gaussian mean; at its ends even motion is not held back.

    Source: Cleveland, Robust locally weighted regression and smoothing scatterplots, 1979.
    """
    radius = min(int(3 * sigma), len(values) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    moments = torch.stack([kernel, kernel * offsets, kernel * offsets.square()])[:, None]
    columns = torch.cat([values, torch.ones_like(values[:, :1])], dim=1).T[:, None]
    sums = F.conv1d(columns, moments, padding=radius)
    (mean, slope), (weight, first, second) = sums[:-1, :2].unbind(1), sums[-1]
    # One row has no slope.
    second = second + 1e-6
    return ((second * mean - first * slope) / (second * weight - first.square())).T


def bust_rotation(head_rotation: Float[Tensor, "n 3 3"], settings: FitSettings) -> Float[Tensor, "n 3 3"]:
    """Rotation of the shoulders that is likely a priori: a share of the slow part of the head's rotation.

    They follow where a person faces over seconds and ignore nods and shakes, which the neck then carries.
    """
    slow = gaussian_mean(matrix_to_axis_angle(head_rotation), settings.bust_sigma)
    return axis_angle_to_matrix(slow * torch.tensor(settings.bust_share, dtype=slow.dtype))


def joints_of(
    head: HeadModel, shape: Float[Tensor, " s"], state: FrameState
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Root and neck joint at rest, metres, head space."""
    # A jaw's angles may follow the coefficients.
    expression = state.expression[:, : head.num_expression]
    coefficients = torch.cat([shape.expand(len(expression), -1), expression], dim=-1)
    joints = torch.addmm(head.joint_template, coefficients, head.joint_basis).unflatten(-1, (-1, 3))
    return joints[:, 0], joints[:, 1]


def steady_neck(
    head: HeadModel,
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    runs: Sequence[Int[Tensor, " r"]],
) -> FrameState:
    """Rotate and scale the head about the face just enough to keep the neck from shaking.

    Where that would move the landmarks by more than the detector's noise it is faded out.

    Args:
        head: that is fitted.
        problem: of the frames of ``state``.
        shape: identity.
        state: of the frames with a face.
        runs: rows of frames that follow each other without a gap.
    """
    settings = problem.settings
    face = problem.face_centre(shape, state)
    scale = state.log_scale.exp()
    growth = _smoothed(state.log_scale[:, None], runs, settings.scale_sigma)[:, 0] - state.log_scale
    # Landmarks lie about an iris distance from the middle of the face.
    calm = state.log_scale + growth / (1 + (growth / settings.smooth_limit).square())
    place = rotated(state.rotation, face)[:, :2]
    steadied = replace(state, log_scale=calm, shift=state.shift + (scale - calm.exp())[:, None] * place)
    arm = rotated(state.rotation, joints_of(head, shape, state)[1] - face)
    neck = steadied.shift + calm.exp()[:, None] * (place + arm[:, :2])
    wanted = (_smoothed(neck, runs, settings.neck_sigma) - neck) / calm.exp()[:, None]
    # The smallest rotation that moves the end of the arm as wanted.
    turn = (torch.linalg.pinv(_by_rotation(arm)) @ wanted[..., None]).squeeze(-1)

    def turned(turn: Float[Tensor, "n 3"]) -> FrameState:
        rotation = axis_angle_to_matrix(turn) @ state.rotation
        moved = place - rotated(rotation, face)[:, :2]
        return replace(steadied, rotation=rotation, shift=steadied.shift + calm.exp()[:, None] * moved)

    change = problem.predict(shape, turned(turn)) - problem.predict(shape, state)
    ratio = change.norm(dim=-1).mean(1) / problem.unit / settings.smooth_limit
    return turned(turn / (1 + ratio.square())[:, None])


def steady_bust(
    head: HeadModel,
    shape: Float[Tensor, " s"],
    state: FrameState,
    runs: Sequence[Int[Tensor, " r"]],
    settings: FitSettings,
) -> Float[Tensor, "n 3 3"]:
    """Rotation that keeps the shoulders at their average position over half a second.

    The neck joint moves with the head; the torso leans about it so that shoulders and chest move as little as
    possible in the image and follow only slow motion.

    Args:
        head: that was fitted.
        shape: identity.
        state: of the frames with a face.
        runs: rows of frames that follow each other without a gap.
        settings: weights.
    """
    likely = bust_rotation(state.rotation, settings)
    rest = _shoulders(head, shape)
    if len(rest) == 0:
        # A head that ends at the neck.
        return likely
    neck = joints_of(head, shape, state)[1]
    scale = state.log_scale.exp()[:, None]
    place = state.shift + scale * rotated(state.rotation, neck)[:, :2]
    seen = _Seen(rest, neck, scale, place)
    parts = windows(len(neck))
    goal = torch.cat([seen.select(part).image(likely[part]) for part in parts])
    for point in range(len(rest)):
        # Over all of the clip, so one point at a time.
        goal[:, point] = _smoothed(goal[:, point], runs, settings.shoulder_sigma)
    return torch.cat([_leaned(seen.select(part), likely[part], goal[part], settings) for part in parts])


@dataclass(frozen=True)
class _Seen:
    """Points that turn about the neck joint, and the camera."""

    rest: Float[Tensor, "p 3"]
    neck: Float[Tensor, "n 3"]
    scale: Float[Tensor, "n 1"]
    """Pixels per metre."""
    place: Float[Tensor, "n 2"]
    """Of the neck joint, pixels, y up."""

    def select(self, part: slice) -> _Seen:
        return _Seen(self.rest, self.neck[part], self.scale[part], self.place[part])

    def image(self, rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n p 2"]:
        """The points under a rotation, pixels, y up."""
        points = self.rest - self.neck[:, None]
        return self.scale[..., None] * (points @ rotation.transpose(1, 2))[..., :2] + self.place[:, None]


def _leaned(
    seen: _Seen, likely: Float[Tensor, "n 3 3"], goal: Float[Tensor, "n p 2"], settings: FitSettings
) -> Float[Tensor, "n 3 3"]:
    """The rotation near the likely one that brings the points near their goal."""
    rotation, points = likely, seen.rest - seen.neck[:, None]
    for _ in range(_STEPS):
        error = (seen.image(rotation) - goal) / seen.scale[..., None]
        jacobian = _by_rotation(points @ rotation.transpose(1, 2)).flatten(1, 2)
        away = matrix_to_axis_angle(rotation @ likely.transpose(1, 2))
        hessian = jacobian.transpose(1, 2) @ jacobian / points.shape[1]
        hessian.diagonal(dim1=1, dim2=2).add_(settings.bust_prior)
        slope = (jacobian.transpose(1, 2) @ error.flatten(1)[..., None]).squeeze(-1) / points.shape[1]
        step = torch.linalg.solve(hessian, slope + settings.bust_prior * away)
        rotation = axis_angle_to_matrix(-step) @ rotation
    return rotation


def _shoulders(head: HeadModel, shape: Float[Tensor, " s"]) -> Float[Tensor, "p 3"]:
    """Points of the shoulders that do not move with the neck, at rest."""
    rows = head.region("shoulders")[: head.num_carriers] & (head.skinning_weights[:, 0] > 0.95)
    index = rows.nonzero().flatten()[::_POINT_STRIDE]
    identity = head.template + shape @ head.basis[: head.num_shape]
    return identity.unflatten(0, (-1, 3))[index]


def _smoothed(values: Float[Tensor, "n k"], runs: Sequence[Tensor], sigma: float) -> Float[Tensor, "n k"]:
    result = values.clone()
    for run in runs:
        result[run] = local_line(values[run], sigma)
    return result


def rotated(rotation: Float[Tensor, "n 3 3"], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Each vector by its matrix."""
    return (rotation @ points[..., None]).squeeze(-1)


def _by_rotation(points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2 3"]:
    """Derivative of a point's x and y by a rotation about the origin, radians."""
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([torch.stack([zero, z, -y], -1), torch.stack([-z, zero, x], -1)], -2)
