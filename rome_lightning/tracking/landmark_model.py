"""The landmarks of a head model as a linear function of its coefficients, for fast fitting."""

from __future__ import annotations

import functools
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
            head: with landmarks ``mediapipe`` and expressions named as in ARKit; ``landmark_model`` takes
                others too.
            dtype: of all tensors of the result.

        Raises:
            ValueError: the head has no such landmarks.
        """
        return cls(**cls.fields_of(head, dtype))

    @staticmethod
    def fields_of(head: HeadModel, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Template and bases at the head's MediaPipe embedding, by field."""
        if "mediapipe" not in head.landmark_names:
            raise ValueError(
                f"fitting needs the landmarks 'mediapipe', {head.name} has {head.landmark_names}"
            )
        template, basis, _ = at_embedding(head)
        joints = head.joint_template.unflatten(0, (-1, 3))[3:5]
        joint_basis = head.joint_basis.unflatten(1, (-1, 3))[: head.num_shape, 3:5]
        return {
            "template": template.to(dtype),
            "shape_basis": basis[..., : head.num_shape].to(dtype).contiguous(),
            "expression_basis": basis[..., head.num_shape :].to(dtype).contiguous(),
            "eye_joints": joints.to(dtype),
            "eye_joint_basis": joint_basis.permute(1, 2, 0).to(dtype).contiguous(),
        }

    @property
    def num_expression(self) -> int:
        """Unknowns of a frame's expression."""
        return self.expression_basis.shape[-1]

    def points(self, shape: Float[Tensor, " s"], expression: Float[Tensor, "n e"]) -> Float[Tensor, "n l 3"]:
        """Landmarks in head space before the eyes turn."""
        identity = self.template + self.shape_basis @ shape
        return identity + (self.expression_basis @ expression.T).permute(2, 0, 1)

    def by_expression(
        self, axes: Float[Tensor, "n 2 3"], shape: Float[Tensor, " s"], expression: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n 2 l e"]:
        """Derivatives of the projected ``points`` by the expression."""
        slopes = axes @ self.expression_basis.permute(1, 0, 2).flatten(1)
        return slopes.unflatten(2, (-1, self.num_expression))

    def by_shape(
        self, axes: Float[Tensor, "n 2 3"], expression: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n 2 l s"]:
        """Derivatives of the projected ``points`` by the identity."""
        slopes = axes @ self.shape_basis.permute(1, 0, 2).flatten(1)
        return slopes.unflatten(2, (-1, self.shape_basis.shape[-1]))

    def bounds(self) -> tuple[Float[Tensor, " e"], Float[Tensor, " e"]]:
        """Smallest and largest value of each unknown of the expression."""
        zero = torch.zeros(self.num_expression)
        return zero, zero + 1

    def prior_costs(self) -> Float[Tensor, " e"]:
        """Prior of each unknown of the expression, as a multiple of ``FitSettings.expression_prior``."""
        return torch.ones(self.num_expression)

    def split(self, expression: Float[Tensor, "n e"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n 3"]]:
        """The unknowns of the expression as the head's coefficients and the pose of its jaw, radians."""
        return expression, expression.new_zeros(len(expression), 3)

    def to(self, dtype: torch.dtype) -> LandmarkModel:
        """Convert every tensor."""
        return replace(self, **{name: value.to(dtype) for name, value in vars(self).items()})

    @staticmethod
    @functools.cache
    def eye_of_landmark() -> tuple[Bool[Tensor, " l"], Bool[Tensor, " l"]]:
        """Masks of the landmarks that turn with the left and with the right eye; not to be changed."""
        left, right = torch.zeros(2, NUM_LANDMARKS, dtype=torch.bool)
        left[list(LEFT_IRIS)] = True
        right[list(RIGHT_IRIS)] = True
        return left, right


def at_embedding(
    head: HeadModel, shares: Float[Tensor, " c"] | None = None
) -> tuple[Float[Tensor, "l 3"], Float[Tensor, "l 3 k"], Float[Tensor, " l"]]:
    """Template and all bases at the embedded points; midpoint vertices are resolved to their pairs.

    Args:
        head: with landmarks ``mediapipe``.
        shares: part of each carrying vertex that counts; all of it if not given.

    Returns:
        Weighted sums of positions and of basis vectors, and of the weights themselves.
    """
    corners = head.get_buffer("landmark_corners_mediapipe")
    weights = head.get_buffer("landmark_weights_mediapipe")[..., None].expand(-1, -1, 2) / 2
    pairs = torch.stack([corners, corners], dim=-1)
    if head.midpoints is not None:
        is_midpoint = corners >= head.num_carriers
        ends = head.midpoints[(corners - head.num_carriers).clamp_min(0)]
        pairs = torch.where(is_midpoint[..., None], ends, pairs)
    index, weights = pairs.flatten(1), weights.flatten(1)
    if shares is not None:
        weights = weights * shares[index]
    template = head.template.unflatten(0, (-1, 3))[index]
    basis = head.basis.unflatten(1, (-1, 3))[:, index]
    return (
        torch.einsum("lc,lcx->lx", weights, template),
        torch.einsum("lc,klcx->lxk", weights, basis).contiguous(),
        weights.sum(1),
    )
