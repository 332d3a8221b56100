"""Motion of an avatar: replacement of lost frames, and motion relative to a pose."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.types import HeadParams

LostFrames = Literal["hold", "interpolate", "skip"]
"""Output while the driver is lost: the last pose, an interpolation to the next one, or no frame."""

_ROTATIONS = ("global_pose", "neck_pose", "jaw_pose")


def fill_lost(params: HeadParams, lost: Bool[Tensor, " n"], how: LostFrames) -> tuple[HeadParams, Tensor]:
    """Replace the parameters of lost frames.

    Before the first and after the last frame that was found there is only one neighbour, which is held.

    Args:
        params: one row per frame; those of lost frames are not read.
        lost: frames whose parameters mean nothing.
        how: see ``LostFrames``.

    Returns:
        Parameters of the frames to show, and the number of each in ``params``.

    Raises:
        ValueError: every frame is lost.
    """
    numbers = torch.arange(len(params))
    found = numbers[~lost]
    if len(found) == 0:
        raise ValueError(f"all {len(params)} frames of the driver are lost")
    if how == "skip":
        return params[found], found
    before = torch.searchsorted(found, numbers, right=True) - 1
    after = (before + 1).clamp_max(len(found) - 1)
    first, last = found[before.clamp_min(0)], found[after]
    if how == "hold":
        return params[first], numbers
    share = (numbers - first) / (last - first).clamp_min(1)
    share = torch.where(lost & (last > first), share.clamp(0, 1), 0.0)
    filled, exact = _between(params[first], params[last], share), params[first]
    # Found frames and the held ends stay identical to the bit.
    still = (share == 0)[:, None]
    return HeadParams(
        **{name: torch.where(still, value, getattr(filled, name)) for name, value in vars(exact).items()}
    ), numbers


def _between(start: HeadParams, end: HeadParams, share: Float[Tensor, " n"]) -> HeadParams:
    """Part of the way between two poses: rotations about one axis at a constant rate, the rest straight."""
    amount = share[:, None]
    changes = {
        name: torch.lerp(getattr(start, name), getattr(end, name), amount)
        for name in ("shape", "expression", "torso_shift")
    }
    scale = start.camera[:, :1].log().lerp(end.camera[:, :1].log(), amount).exp()
    shift = start.camera[:, 1:].lerp(end.camera[:, 1:], amount)
    changes |= {name: _slerp(getattr(start, name), getattr(end, name), amount) for name in _ROTATIONS}
    eyes = _slerp(start.eye_pose.reshape(-1, 3), end.eye_pose.reshape(-1, 3), amount.repeat_interleave(2, 0))
    return HeadParams(**changes, eye_pose=eyes.view(-1, 6), camera=torch.cat([scale, shift], dim=-1))


def _slerp(
    start: Float[Tensor, "n 3"], end: Float[Tensor, "n 3"], amount: Float[Tensor, "n 1"]
) -> Float[Tensor, "n 3"]:
    """Spherical interpolation of axis-angle rotations."""
    first = axis_angle_to_matrix(start)
    turn = matrix_to_axis_angle(first.transpose(1, 2) @ axis_angle_to_matrix(end))
    return matrix_to_axis_angle(first @ axis_angle_to_matrix(turn * amount))


def relative_motion(params: HeadParams, reference: HeadParams, own: HeadParams) -> HeadParams:
    """The driver's motion away from one of its poses, carried out from a pose of the avatar's.

    Keeps the avatar's framing and head posture, whatever the driver's. In the reference the driver should
    have the expression and pose of the avatar's photograph.

    Args:
        params: of the driver, one row per frame.
        reference: the driver's pose that corresponds to ``own`` (batch of one).
        own: the avatar's, usually that of its photograph (batch of one).
    """
    changes: dict[str, Tensor] = {}
    for name in _ROTATIONS:
        start = axis_angle_to_matrix(getattr(reference, name)).transpose(1, 2)
        moved = axis_angle_to_matrix(getattr(params, name)) @ start
        changes[name] = matrix_to_axis_angle(moved @ axis_angle_to_matrix(getattr(own, name)))
    expression = own.expression + params.expression - reference.expression
    # Weights of blendshapes have bounds; FLAME's coefficients, which may be negative, have none.
    if float(params.expression.min()) >= 0 and float(own.expression.min()) >= 0:
        expression = expression.clamp(0, 1)
    zoom = params.camera[:, :1] / reference.camera[:, :1]
    shift = own.camera[:, 1:] + params.camera[:, 1:] - reference.camera[:, 1:]
    camera = torch.cat([own.camera[:, :1] * zoom, shift], dim=-1)
    # As seen in the image, like the camera's shift.
    seen = _in_image(own) + _in_image(params) - _in_image(reference)
    bust = axis_angle_to_matrix(changes["global_pose"])
    torso_shift = (bust.transpose(1, 2) @ seen[..., None]).squeeze(-1)
    return dataclasses.replace(
        params, **changes, expression=expression, camera=camera, torso_shift=torso_shift
    )


def _in_image(params: HeadParams) -> Float[Tensor, "n 3"]:
    """The torso's shift in the camera's axes, metres."""
    return (axis_angle_to_matrix(params.global_pose) @ params.torso_shift[..., None]).squeeze(-1)


def runs(numbers: Int[Tensor, " n"]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, last), for messages and files."""
    found: list[tuple[int, int]] = []
    for number in numbers.tolist():
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
