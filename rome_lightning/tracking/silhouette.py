"""Keeps skull and ears inside the person's silhouette, where no landmark sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.head import HeadModel
from rome_lightning.renderer import nearest_covered
from rome_lightning.tracking.gauss_newton import FrameState

POINT_STRIDE = 4
"""Stride of the tested vertices of scalp and ears, which are then about 2 cm apart."""
FIELD_SIZE = 128
"""Side of the distance field, samples; finer would not see more of a matte's edge."""
THRESHOLD = 0.15
"""Distance, in iris distances, from which the cost grows linearly: masks have holes."""


@dataclass(frozen=True)
class SilhouetteTerm:
    """Cost of bald-head points that project outside the person.

    One-sided: hair may extend beyond the skull by any amount, but the skull must not show where there is no
    person.
    It affects only the identity; the pose belongs to the landmarks.
    """

    points: Float[Tensor, "p 3"]
    """Scalp and ears of the mean head, metres."""
    basis: Float[Tensor, "p 3 s"]
    distance: Float[Tensor, "n 3 f f"]
    """Distance to the person in pixels of the landmarks, 0 inside, and its derivatives by x and y."""
    side: int
    """Of the square image, pixels."""
    weight: float
    """Cost of a mean squared distance in squared iris distances."""

    @classmethod
    def build(
        cls, head: HeadModel, foreground: Float[Tensor, "n h w"], side: int, weight: float
    ) -> SilhouetteTerm:
        """Prepare distance fields.

        Args:
            head: with regions ``scalp`` and ``ears``.
            foreground: person or not, [0, 1], covering the same square as the landmarks at any resolution.
            side: of that square in the landmarks' pixels.
            weight: see the field.
        """
        carriers = head.region("scalp", "ears")[: head.num_carriers].nonzero().flatten()[::POINT_STRIDE]
        person = F.interpolate(foreground[:, None].float(), (FIELD_SIZE, FIELD_SIZE), mode="area") > 0.5
        distance = nearest_covered(person[:, 0])[1][:, None]
        # A frame without any person says nothing.
        distance = distance * person.flatten(1).any(1)[:, None, None, None] * side
        slope_y, slope_x = torch.gradient(distance, spacing=side / FIELD_SIZE, dim=(2, 3))
        return cls(
            points=head.template.unflatten(0, (-1, 3))[carriers],
            basis=head.basis[: head.num_shape]
            .unflatten(1, (-1, 3))[:, carriers]
            .permute(1, 2, 0)
            .contiguous(),
            distance=torch.cat([distance, slope_x, slope_y], dim=1),
            side=side,
            weight=weight,
        )

    def normal_equations(
        self, shape: Float[Tensor, " s"], state: FrameState, unit: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " s"], Float[Tensor, "s s"]]:
        """Gradient and Gauss-Newton Hessian by the identity, summed over frames.

        Args:
            shape: identity.
            state: one row per distance field.
            unit: iris distance in pixels.
        """
        axes = state.rotation[:, :2] * state.log_scale.exp()[:, None, None]
        projected = (self.points + self.basis @ shape) @ axes.transpose(1, 2) + state.shift[:, None]
        flip = torch.tensor([1.0, -1.0])
        grid = (projected * flip + 0.5) * 2 / self.side - 1
        sampled = F.grid_sample(self.distance, grid[:, None], padding_mode="border", align_corners=False)
        distance, slope = sampled[:, 0, 0], sampled[:, 1:, 0].transpose(1, 2) * flip
        error = distance / unit[:, None]
        inside_image = (grid.abs() <= 1).all(-1)
        active = inside_image & (distance > 0)
        root = (active / (1 + (error / THRESHOLD).square()).sqrt() * self.weight / len(self.points)).sqrt()
        rows = torch.einsum("npi,nij->npj", slope * (root / unit[:, None])[..., None], axes)
        jacobian = torch.einsum("npj,pjs->nps", rows, self.basis).flatten(0, 1)
        return jacobian.T @ (error * root).flatten(), jacobian.T @ jacobian
