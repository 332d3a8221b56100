"""Landmarks of a head whose jaw turns about a joint and whose expressions have no names, such as FLAME."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.head import HeadModel
from rome_lightning.head.flame.registration import add_mediapipe
from rome_lightning.tracking.landmark_model import LandmarkModel, at_embedding

NUM_JAW = 3
"""Axis-angle of the jaw, behind the expression's coefficients."""
_JAW_COST = 5.0
"""Prior of the jaw's squared angle, radians, against that of an expression weight."""
_COEFFICIENT_COST = 0.02
"""Prior of a squared expression coefficient, standard deviations, against that of an expression weight."""
_MOST_COEFFICIENT = 4.0
_JAW_LOW, _JAW_HIGH = (-0.05, -0.15, -0.1), (0.6, 0.15, 0.1)
"""Bounds of pitch, yaw and roll, radians."""


@dataclass(frozen=True)
class JawLandmarkModel(LandmarkModel):
    """Landmarks with a turning jaw, its pose correctives included; those of the neck are left out.

    Linear blend skinning of a landmark is ``p + (R - I) l``: p is the landmark at rest, l its lever, the
    same point with its corners weighted by their jaw weights and taken from the jaw's joint.
    """

    lever: Float[Tensor, "l 3"]
    """Of the mean head, metres."""
    lever_shape_basis: Float[Tensor, "l 3 s"]
    lever_expression_basis: Float[Tensor, "l 3 e"]
    correctives: Float[Tensor, "l 3 9"]
    """Displacement by the elements of R - I, metres."""
    lever_correctives: Float[Tensor, "l 3 9"]

    @classmethod
    def from_head(cls, head: HeadModel, dtype: torch.dtype = torch.float32) -> JawLandmarkModel:
        """Evaluate a head with joint regressor and pose correctives at its MediaPipe embedding."""
        plain = LandmarkModel.fields_of(head, dtype)
        jaw_weights = head.skinning_weights[:, 2]
        template, basis, total = at_embedding(head, jaw_weights)
        joints = head.joint_template.unflatten(0, (-1, 3))[2]
        joint_basis = head.joint_basis.unflatten(1, (-1, 3))[:, 2]
        lever = template - total[:, None] * joints
        levers = basis - total[:, None, None] * joint_basis.T
        correctives = lever_correctives = torch.zeros(len(template), 3, 9)
        if head.pose_basis is not None:
            # Matrices of neck, jaw and eyes in turn: the jaw's is the second.
            rows = head.pose_basis.unflatten(1, (-1, 3))[9:18]
            corners = head.get_buffer("landmark_corners_mediapipe")
            weights = head.get_buffer("landmark_weights_mediapipe")
            correctives = torch.einsum("lc,klcx->lxk", weights, rows[:, corners])
            shares = weights * jaw_weights[corners]
            lever_correctives = torch.einsum("lc,klcx->lxk", shares, rows[:, corners])
        return cls(
            **plain,
            lever=lever.to(dtype),
            lever_shape_basis=levers[..., : head.num_shape].to(dtype).contiguous(),
            lever_expression_basis=levers[..., head.num_shape :].to(dtype).contiguous(),
            correctives=correctives.to(dtype),
            lever_correctives=lever_correctives.to(dtype),
        )

    @property
    def num_expression(self) -> int:
        """Unknowns of a frame's expression: coefficients, then the jaw's angles."""
        return self.expression_basis.shape[-1] + NUM_JAW

    def points(self, shape: Float[Tensor, " s"], expression: Float[Tensor, "n e"]) -> Float[Tensor, "n l 3"]:
        """Landmarks in head space before the eyes turn."""
        coefficients, turned = self._split(expression)
        rest = self.template + self.shape_basis @ shape
        rest = rest + (self.expression_basis @ coefficients.T).permute(2, 0, 1)
        corrected = (self.correctives @ turned.flatten(1).T).permute(2, 0, 1)
        return rest + corrected + self._lever(shape, coefficients, turned) @ turned.transpose(1, 2)

    def by_expression(
        self, axes: Float[Tensor, "n 2 3"], shape: Float[Tensor, " s"], expression: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n 2 l e"]:
        """Derivatives of the projected ``points`` by the expression."""
        coefficients, turned = self._split(expression)
        by_coefficients = self.expression_basis + torch.einsum(
            "nij,lje->nlie", turned, self.lever_expression_basis
        )
        lever = self._lever(shape, coefficients, turned)
        slopes = _rotation_slopes(expression[:, -NUM_JAW:])
        by_jaw = torch.einsum("nkij,nlj->nlik", slopes, lever)
        flat = slopes.flatten(2)
        by_jaw = by_jaw + torch.einsum("lxm,nkm->nlxk", self.correctives, flat)
        by_lever = torch.einsum("lxm,nkm->nlxk", self.lever_correctives, flat)
        by_jaw = by_jaw + torch.einsum("nij,nljk->nlik", turned, by_lever)
        return torch.einsum("nij,nlje->nile", axes, torch.cat([by_coefficients, by_jaw], dim=-1))

    def by_shape(
        self, axes: Float[Tensor, "n 2 3"], expression: Float[Tensor, "n e"]
    ) -> Float[Tensor, "n 2 l s"]:
        """Derivatives of the projected ``points`` by the identity."""
        _, turned = self._split(expression)
        moved = torch.einsum("nij,ljs->nils", axes @ turned, self.lever_shape_basis)
        return moved + torch.einsum("nij,ljs->nils", axes, self.shape_basis)

    def bounds(self) -> tuple[Float[Tensor, " e"], Float[Tensor, " e"]]:
        """Smallest and largest value of each unknown of the expression."""
        most = torch.full((self.expression_basis.shape[-1],), _MOST_COEFFICIENT)
        low = torch.cat([-most, torch.tensor(_JAW_LOW)])
        return low, torch.cat([most, torch.tensor(_JAW_HIGH)])

    def prior_costs(self) -> Float[Tensor, " e"]:
        """Prior of each unknown, as a multiple of ``FitSettings.expression_prior``."""
        costs = torch.full((self.num_expression,), _COEFFICIENT_COST)
        costs[-NUM_JAW:] = _JAW_COST
        return costs

    def split(self, expression: Float[Tensor, "n e"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n 3"]]:
        """The head's coefficients and the pose of its jaw, radians."""
        return expression[:, :-NUM_JAW], expression[:, -NUM_JAW:]

    def _split(self, expression: Tensor) -> tuple[Tensor, Float[Tensor, "n 3 3"]]:
        """Coefficients, and the jaw's matrix less the identity."""
        matrix = axis_angle_to_matrix(expression[:, -NUM_JAW:])
        return expression[:, :-NUM_JAW], matrix - torch.eye(3, dtype=matrix.dtype)

    def _lever(self, shape: Tensor, coefficients: Tensor, turned: Tensor) -> Float[Tensor, "n l 3"]:
        moved = self.lever_expression_basis @ coefficients.T + self.lever_correctives @ turned.flatten(1).T
        return self.lever + self.lever_shape_basis @ shape + moved.permute(2, 0, 1)


def _rotation_slopes(angles: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3 3"]:
    """Derivatives (n, k, i, j) of the matrix of an axis-angle by its k-th element."""
    slope: Tensor = torch.func.vmap(torch.func.jacfwd(_one_matrix))(angles)
    return slope.permute(0, 3, 1, 2)


def _one_matrix(angles: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    return axis_angle_to_matrix(angles[None])[0]


def has_named_expressions(head: HeadModel) -> bool:
    """Whether the jaw opens by an expression with ARKit's name, as on the open head."""
    return head.has_arkit and not head.has_pose_basis


def landmark_model(head: HeadModel, dtype: torch.dtype = torch.float32) -> LandmarkModel:
    """The landmarks of any head that can be fitted; FLAME gets those of MediaPipe by registration."""
    kind = LandmarkModel if has_named_expressions(head) else JawLandmarkModel
    return kind.from_head(head if kind is LandmarkModel else add_mediapipe(head), dtype)
