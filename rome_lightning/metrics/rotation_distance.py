"""Angles between head rotations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def rotation_distance(
    prediction: Float[Tensor, "b 3 3"], target: Float[Tensor, "b 3 3"]
) -> Float[Tensor, " b"]:
    """Geodesic angle between rotations, degrees, [0, 180].

    ``2 asin(|R_1 - R_2| / (2 sqrt 2))`` with the Frobenius norm, which unlike the arc cosine of the trace is
    accurate at small angles.

    Args:
        prediction: rotation matrices.
        target: rotation matrices.

    Source: Huynh, Metrics for 3D rotations, 2009, eqs. 33 and 35.
    """
    chord = (prediction.double() - target.double()).flatten(1).norm(dim=-1) / (2 * 2**0.5)
    return torch.rad2deg(2 * torch.asin(chord.clamp(max=1))).to(prediction.dtype)


class RotationDistance(MeanOverImages):
    """Mean of ``rotation_distance`` over faces, degrees, lower is better."""

    higher_is_better = False

    def update(self, prediction: Float[Tensor, "b 3 3"], target: Float[Tensor, "b 3 3"]) -> None:
        """Add a batch of detected faces; arguments as for ``rotation_distance``."""
        self.add(rotation_distance(prediction, target))
