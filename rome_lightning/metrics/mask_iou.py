"""Overlap of masks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def mask_iou(
    prediction: Float[Tensor, "b 1 h w"],
    target: Float[Tensor, "b 1 h w"],
    valid: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Intersection over union of two masks thresholded at 1/2; 1 if both are empty.

    Args:
        prediction: [0, 1].
        target: [0, 1].
        valid: 1 on pixels that count.
    """
    ours, theirs = prediction > 0.5, target > 0.5
    if valid is not None:
        ours, theirs = ours & (valid > 0.5), theirs & (valid > 0.5)
    both = (ours & theirs).flatten(1).sum(1)
    either = (ours | theirs).flatten(1).sum(1)
    return (both / either.clamp_min(1)).where(either > 0, 1.0)


class MaskIoU(MeanOverImages):
    """Mean of ``mask_iou`` over images, higher is better."""

    higher_is_better = True

    def update(
        self,
        prediction: Float[Tensor, "b 1 h w"],
        target: Float[Tensor, "b 1 h w"],
        valid: Float[Tensor, "b 1 h w"] | None = None,
    ) -> None:
        """Add a batch; arguments as for ``mask_iou``."""
        self.add(mask_iou(prediction, target, valid))
