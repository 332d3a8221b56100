"""Mean absolute difference of images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def l1(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean absolute difference of each image, in [0, 1].

    Args:
        prediction: RGB in [0, 1].
        target: RGB in [0, 1].
        mask: weight of each pixel in the mean, [0, 1]; an image whose mask is empty is NaN.
    """
    difference = (prediction.float() - target.float()).abs().mean(1, keepdim=True)
    if mask is None:
        return difference.flatten(1).mean(1)
    return (difference * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)


class L1(MeanOverImages):
    """Mean of ``l1`` over images, lower is better."""

    higher_is_better = False

    def update(
        self,
        prediction: Float[Tensor, "b c h w"],
        target: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"] | None = None,
    ) -> None:
        """Add a batch; arguments as for ``l1``."""
        self.add(l1(prediction, target, mask))
