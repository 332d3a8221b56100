"""From what the tracker solves for to the project's parameters."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.head import HeadModel
from rome_lightning.tracking.gauss_newton import FrameState
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.tracking.shoulders import joints_of, rotated
from rome_lightning.types import HeadParams


def to_params(
    head: HeadModel,
    model: LandmarkModel,
    shape: Float[Tensor, " s"],
    state: FrameState,
    bust: Float[Tensor, "n 3 3"],
    image_size: tuple[int, int],
    torso_shift: Float[Tensor, "n 3"] | None = None,
) -> HeadParams:
    """Split the head's rotation between bust and neck and express the camera in NDC.

    Args:
        head: that was fitted.
        model: its landmarks.
        shape: identity.
        state: of each frame.
        bust: rotation of the shoulders; the neck does the rest.
        image_size: (height, width) of the landmarks' image, pixels.
        torso_shift: of the shoulders in the camera's axes, metres.

    The head's projection is unchanged: with head points ``R_h p + t`` and the neck joint at ``j``, the
    world points ``R_g (R_n (p - j) + j - r) + r + t'`` agree for ``R_h = R_g R_n`` and the t' below.
    """
    count = len(state.expression)
    if torso_shift is None:
        torso_shift = torch.zeros(count, 3)
    expression, jaw = model.split(state.expression)
    root, neck = (joint[..., None] for joint in joints_of(head, shape, state))
    bend = bust.transpose(1, 2) @ state.rotation
    moved = bust @ (neck - bend @ neck - root) + root
    size = image_size[1]
    scale = state.log_scale.exp() * 2 / size
    offset = torch.stack([state.shift[:, 0] + 0.5, state.shift[:, 1] - 0.5], dim=-1) * 2 / size
    offset = offset + torch.tensor([-1.0, 1.0])
    translation = offset / scale[:, None] - moved[:, :2, 0]
    eyes = eye_axis_angle(state.eyes)
    return HeadParams(
        shape=shape.expand(count, -1).contiguous(),
        expression=expression.contiguous(),
        global_pose=matrix_to_axis_angle(bust),
        neck_pose=matrix_to_axis_angle(bend),
        jaw_pose=jaw.contiguous(),
        eye_pose=eyes,
        camera=torch.cat([scale[:, None], translation], dim=-1),
        torso_shift=rotated(bust.transpose(1, 2), torso_shift),
    )


def eye_axis_angle(eyes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 6"]:
    """Axis-angle of yaw after pitch, left eye then right eye."""
    pitch, yaw = eyes[:, 0::2], eyes[:, 1::2]
    zero = torch.zeros_like(pitch)
    turn = axis_angle_to_matrix(torch.stack([zero, yaw, zero], dim=-1))
    nod = axis_angle_to_matrix(torch.stack([pitch, zero, zero], dim=-1))
    return matrix_to_axis_angle(turn @ nod).flatten(1)
