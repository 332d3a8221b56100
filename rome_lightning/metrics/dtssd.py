"""Flicker: changes from frame to frame that the target does not have."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def dtssd(
    prediction: Float[Tensor, "t c h w"],
    target: Float[Tensor, "t c h w"],
    mask: Float[Tensor, "t 1 h w"] | None = None,
) -> Float[Tensor, " t1"]:
    """Root mean square of the difference between the changes of two videos, from each frame to the next.

    ``sqrt(mean ((P_t - P_t-1) - (T_t - T_t-1)) ** 2)``: 0 for a prediction that changes as its target does,
    whatever it shows; still pictures score what the target moves.

    Args:
        prediction: RGB in [0, 1], consecutive frames.
        target: the same frames.
        mask: weight of each pixel, [0, 1]; a change counts by the product of both frames' weights, and is
            NaN where that is empty.

    Source: Erofeev et al., Perceptually motivated benchmark for video matting, 2015, dtSSD.
    """
    error = prediction.float() - target.float()
    squares = (error[1:] - error[:-1]).square().mean(1, keepdim=True)
    if mask is None:
        return squares.flatten(1).mean(1).sqrt()
    weight = mask[1:] * mask[:-1]
    return ((squares * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).sqrt()


class DtSSD(MeanOverImages):
    """Mean over changes of ``dtssd``, lower is better."""

    higher_is_better = False

    def update(
        self,
        prediction: Float[Tensor, "t c h w"],
        target: Float[Tensor, "t c h w"],
        mask: Float[Tensor, "t 1 h w"] | None = None,
    ) -> None:
        """Add one clip; arguments as for ``dtssd``."""
        self.add(dtssd(prediction, target, mask))
