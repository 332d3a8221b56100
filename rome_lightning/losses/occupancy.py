"""Silhouette loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def occupancy(predicted: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Mean squared difference between a soft silhouette and a mask.

    ``1 / (b h w) sum (predicted - target) ** 2``

    Args:
        predicted: differentiable coverage of the mesh, [0, 1].
        target: segmentation of what the mesh should cover, [0, 1].

    Source: ROME sec. 3.4, L_occ; the release takes half of it.
    """
    return (predicted - target).square().mean()
