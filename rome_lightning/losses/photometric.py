"""Weighted absolute difference of images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def photometric(
    predicted: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    weight: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, ""]:
    """Mean L1 difference where each pixel counts by its weight.

    Departure from ROME: the paper has no photometric term; a small decoder trained for minutes needs it.

    Args:
        predicted: RGB in [0, 1].
        target: RGB in [0, 1], on the same background.
        weight: >= 0; the loss is divided by its sum.
    """
    difference = (predicted - target).abs().mean(dim=1, keepdim=True)
    return (difference * weight).sum() / weight.sum().clamp_min(1e-6)
