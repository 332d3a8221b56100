"""Flicker: changes between frames that the target does not have."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def dtssd(
    prediction: Float[Tensor, "t c h w"],
    target: Float[Tensor, "t c h w"],
    mask: Float[Tensor, "t 1 h w"] | None = None,
) -> Float[Tensor, " t1"]:
    """Root mean squared difference between the frame-to-frame changes of two videos.

    ``sqrt(mean ((P_t - P_t-1) - (T_t - T_t-1)) ** 2)``: 0 for a prediction that changes like its target,
    whatever it shows; a still image scores the target's own motion.

    Args:
        prediction: RGB in [0, 1], consecutive frames.
        target: the same frames.
        mask: weight of each pixel, [0, 1]; a change is weighted by the product of both frames' weights, and
            is NaN if that is 0 everywhere.

    Source: Erofeev et al., Perceptually motivated benchmark for video matting, 2015, dtSSD.
    """
    error = prediction.float() - target.float()
    squares = (error[1:] - error[:-1]).square().mean(1, keepdim=True)
    if mask is None:
        return squares.flatten(1).mean(1).sqrt()
    weight = mask[1:] * mask[:-1]
    return ((squares * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).sqrt()


class DtSSD(MeanOverImages):
    """Mean of ``dtssd`` over frame pairs, lower is better."""

    higher_is_better = False

    def update(
        self,
        prediction: Float[Tensor, "t c h w"],
        target: Float[Tensor, "t c h w"],
        mask: Float[Tensor, "t 1 h w"] | None = None,
    ) -> None:
        """Add one clip; arguments as for ``dtssd``."""
        self.add(dtssd(prediction, target, mask))
