"""Pixel loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def photometric(
    predicted: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean of the absolute difference of two images.

    ``sum w |a - b| / (c sum w)`` over the pixels of each sample, averaged over the samples, so that a batch
    can be split; the plain mean without a weight. A sample whose weights are all 0 counts as 0.

    Args:
        predicted: RGB in [0, 1].
        target: RGB in [0, 1].
        weight: not negative; only ratios between pixels matter.

    Departure from ROME, which has no pixel term.
    """
    difference = (predicted - target).abs()
    if weight is None:
        return difference.mean()
    total = weight.flatten(1).sum(1) * predicted.shape[1]
    return ((weight * difference).flatten(1).sum(1) / total.clamp_min(1e-12)).mean()
