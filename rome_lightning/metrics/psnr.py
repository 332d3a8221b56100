"""Peak signal-to-noise ratio."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages

MAX_PSNR = 100.0
"""Value for equal images, decibels; keeps means finite."""


def psnr(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """PSNR of each image in decibels, at most ``MAX_PSNR``.

    ``-10 log10(mean (prediction - target) ** 2)``

    Args:
        prediction: RGB in [0, 1].
        target: RGB in [0, 1].
        mask: weight of each pixel in the mean, [0, 1]; an image whose mask is empty is NaN.

    Example:
        >>> black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)
        >>> psnr(black, grey)
        tensor([20.])
    """
    squares = (prediction.float() - target.float()).square().mean(1, keepdim=True)
    if mask is None:
        error = squares.flatten(1).mean(1)
    else:
        error = (squares * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    return -10 * torch.log10(error.clamp_min(10 ** (-MAX_PSNR / 10)))


class PSNR(MeanOverImages):
    """Mean of ``psnr`` over images, decibels, higher is better.

    Averages decibels, not squared errors, as papers on avatars do.
    """

    higher_is_better = True

    def update(
        self,
        prediction: Float[Tensor, "b c h w"],
        target: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"] | None = None,
    ) -> None:
        """Add a batch; arguments as for ``psnr``."""
        self.add(psnr(prediction, target, mask))
