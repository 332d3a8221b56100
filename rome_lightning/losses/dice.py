"""Overlap loss of masks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-6
"""Added to numerator and denominator: two empty masks agree, and the divisor is never 0."""


def dice(predicted: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """One minus the overlap of two soft masks, averaged over the samples.

    ``1 - 2 <a, b> / (|a|^2 + |b|^2)`` with sums over the pixels of one sample; in [0, 1].

    Args:
        predicted: [0, 1].
        target: [0, 1].

    Source: ROME sec. 3.4, L_seg (after Milletari et al., V-Net, 2016, eq. 3).
    """
    a, b = predicted.flatten(1), target.flatten(1)
    overlap = 2 * (a * b).sum(1)
    total = a.square().sum(1) + b.square().sum(1)
    return (1 - (overlap + EPSILON) / (total + EPSILON)).mean()
