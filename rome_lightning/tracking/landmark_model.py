"""The landmarks of a head model as a linear function of its coefficients, for fast fitting."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.types.landmarks import LEFT_IRIS, NUM_LANDMARKS, RIGHT_IRIS


@dataclass(frozen=True)
class LandmarkModel:
    """Landmarks at rest, before the rotations of eyes and head.

    The head's skin hangs on the neck joint alone, so neck and global rotation act on every landmark
    as one rigid motion; only the irises turn further, about their eye joints.
    """

    template: Float[Tensor, "l 3"]
    """Landmarks of the mean head, metres, head space."""
    shape_basis: Float[Tensor, "l 3 s"]
    expression_basis: Float[Tensor, "l 3 e"]
    eye_joints: Float[Tensor, "2 3"]
    """Rest position of the left, then the right eye joint on the mean head, metres."""
    eye_joint_basis: Float[Tensor, "2 3 s"]
    """Displacement of the eye joints per shape coefficient, metres."""

    @classmethod
    def from_head(cls, head: HeadModel, dtype: torch.dtype = torch.float32) -> LandmarkModel:
        """Evaluate template and bases at the head's MediaPipe embedding.

        Args:
            head: with landmarks ``mediapipe``, expressions named as in ARKit, and no pose correctives.
            dtype: of all tensors of the result.

        Raises:
            ValueError: the head lacks one of these.
        """
        if "mediapipe" not in head.landmark_names:
            raise ValueError(
                f"fitting needs the landmarks 'mediapipe', {head.name} has {head.landmark_names}"
            )
        if "jawOpen" not in head.expression_names or head.pose_basis is not None:
            raise ValueError(
                f"fitting needs a head with the 52 ARKit expressions and no pose correctives, got "
                f"{head.name}; use the open head, or import the parameters of another tracker"
            )
        template, basis = _at_embedding(head)
        joints = head.joint_template.unflatten(0, (-1, 3))[3:5]
        joint_basis = head.joint_basis.unflatten(1, (-1, 3))[: head.num_shape, 3:5]
        return cls(
            template=template.to(dtype),
            shape_basis=basis[..., : head.num_shape].to(dtype).contiguous(),
            expression_basis=basis[..., head.num_shape :].to(dtype).contiguous(),
            eye_joints=joints.to(dtype),
            eye_joint_basis=joint_basis.permute(1, 2, 0).to(dtype).contiguous(),
        )

    def to(self, dtype: torch.dtype) -> LandmarkModel:
        """Convert every tensor."""
        return replace(self, **{name: value.to(dtype) for name, value in vars(self).items()})

    @staticmethod
    def eye_of_landmark() -> tuple[Bool[Tensor, " l"], Bool[Tensor, " l"]]:
        """Masks of the landmarks that turn with the left and with the right eye."""
        left, right = torch.zeros(2, NUM_LANDMARKS, dtype=torch.bool)
        left[list(LEFT_IRIS)] = True
        right[list(RIGHT_IRIS)] = True
        return left, right


def _at_embedding(head: HeadModel) -> tuple[Float[Tensor, "l 3"], Float[Tensor, "l 3 k"]]:
    """Template and all bases at the embedded points; midpoint vertices are resolved to their pairs."""
    corners = head.get_buffer("landmark_corners_mediapipe")
    weights = head.get_buffer("landmark_weights_mediapipe")[..., None].expand(-1, -1, 2) / 2
    pairs = torch.stack([corners, corners], dim=-1)
    if head.midpoints is not None:
        is_midpoint = corners >= head.num_carriers
        ends = head.midpoints[(corners - head.num_carriers).clamp_min(0)]
        pairs = torch.where(is_midpoint[..., None], ends, pairs)
    index, weights = pairs.flatten(1), weights.flatten(1)
    template = head.template.unflatten(0, (-1, 3))[index]
    basis = head.basis.unflatten(1, (-1, 3))[:, index]
    return (
        torch.einsum("lc,lcx->lx", weights, template),
        torch.einsum("lc,klcx->lxk", weights, basis).contiguous(),
    )
