"""Parameters that a tracker estimates and a head model consumes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.types.struct import TensorStruct

POSE_SIZE = 15
"""Length of the packed rotations: global (3), neck (3), jaw (3), left eye (3), right eye (3)."""
STORED_POSE_SIZE = POSE_SIZE + 3
"""Length of what shards store: the packed rotations, then the shift of the torso."""


@dataclass(frozen=True)
class HeadParams(TensorStruct):
    """Parameters of a head model for a batch of frames."""

    shape: Float[Tensor, "b s"]
    """Identity coefficients, in standard deviations of the head model's shape basis."""
    expression: Float[Tensor, "b e"]
    """Expression coefficients; [0, 1] ARKit blendshape weights on the open head."""
    global_pose: Float[Tensor, "b 3"]
    """Axis-angle, radians: rotation of the whole bust about the head model's root."""
    neck_pose: Float[Tensor, "b 3"]
    """Axis-angle, radians: head relative to the shoulders."""
    jaw_pose: Float[Tensor, "b 3"]
    """Axis-angle, radians."""
    eye_pose: Float[Tensor, "b 6"]
    """Axis-angle, radians: left eye, then right eye (the subject's left)."""
    camera: Float[Tensor, "b 3"]
    """Weak perspective (scale, t_x, t_y), see ``rome_lightning.geometry``; independent of resolution."""
    torso_shift: Float[Tensor, "b 3"] = None  # type: ignore[assignment]
    """Metres, head space: translation of the shoulders, and of what hangs on them, while the head stays; 0 by
    default. A neck bends in many joints, so a head also moves over its shoulders without turning."""

    def __post_init__(self) -> None:
        if self.torso_shift is None:
            object.__setattr__(self, "torso_shift", torch.zeros_like(self.camera))

    def __len__(self) -> int:
        return self.shape.shape[0]

    @property
    def pose(self) -> Float[Tensor, "b 15"]:
        """All rotations packed in the order of ``POSE_SIZE``."""
        return torch.cat([self.global_pose, self.neck_pose, self.jaw_pose, self.eye_pose], dim=-1)

    @property
    def stored_pose(self) -> Float[Tensor, "b 18"]:
        """Rotations and shift packed in the order of ``STORED_POSE_SIZE``, as shards store them."""
        return torch.cat([self.pose, self.torso_shift], dim=-1)

    @classmethod
    def from_packed(
        cls,
        shape: Float[Tensor, "b s"],
        expression: Float[Tensor, "b e"],
        pose: Float[Tensor, "b p"],
        camera: Float[Tensor, "b 3"],
    ) -> HeadParams:
        """Build from the packed pose of a shard, or from packed rotations alone."""
        if pose.shape[-1] not in (POSE_SIZE, STORED_POSE_SIZE):
            raise ValueError(
                f"pose must have {POSE_SIZE} or {STORED_POSE_SIZE} numbers per frame, got {pose.shape[-1]}"
            )
        global_pose, neck_pose, jaw_pose, eye_pose, *shift = pose.split(
            [3, 3, 3, 6, 3][: 4 + (pose.shape[-1] == STORED_POSE_SIZE)], dim=-1
        )
        return cls(shape, expression, global_pose, neck_pose, jaw_pose, eye_pose, camera, *shift)

    @classmethod
    def neutral(cls, batch_size: int, num_shape: int, num_expression: int) -> HeadParams:
        """The mean head at rest, seen from the front, filling about half of the image."""
        camera = torch.tensor([4.0, 0.0, 0.0]).repeat(batch_size, 1)
        return cls.from_packed(
            torch.zeros(batch_size, num_shape),
            torch.zeros(batch_size, num_expression),
            torch.zeros(batch_size, POSE_SIZE),
            camera,
        )


def at_rest(params: HeadParams) -> HeadParams:
    """The same identity with a neutral expression, unposed."""
    zero = {
        name: torch.zeros_like(getattr(params, name))
        for name in ("expression", "global_pose", "neck_pose", "jaw_pose", "eye_pose", "torso_shift")
    }
    return replace(params, **zero)
