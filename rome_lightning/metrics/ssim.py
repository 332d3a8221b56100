"""Structural similarity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.metrics.per_image import MeanOverImages

WINDOW = 11
"""Side of the Gaussian window, pixels."""
SIGMA = 1.5
"""Its standard deviation, pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. for values in [0, 1]."""


def ssim(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """SSIM of each image, in [-1, 1], averaged over channels and over the windows inside the image.

    Args:
        prediction: RGB in [0, 1], at least 11 pixels on each side.
        target: RGB in [0, 1].
        mask: weight of the window centred on each pixel, [0, 1]; an image without weight is NaN.

    Values equal those of scikit-image; torchmetrics continues the image by reflection and averages its
    border too.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004,
    eq. 13, with an 11x11 Gaussian window.
    """
    height, width = prediction.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} pixels a side, got {height}x{width}")
    # Variances are differences of near numbers: half precision would make them noise.
    with torch.autocast(prediction.device.type, enabled=False):
        a, b = prediction.float(), target.float()
        mean_a, mean_b, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b], dim=1)).chunk(5, dim=1)
        covariance = ab - mean_a * mean_b
        variances = aa - mean_a.square() + bb - mean_b.square()
        luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
        values = (luminance * (2 * covariance + C2) / (variances + C2)).mean(1)
    if mask is None:
        return values.flatten(1).mean(1)
    border = WINDOW // 2
    weight = mask[:, 0, border : height - border, border : width - border]
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def _blur(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Gaussian window at the places where it lies inside the image."""
    positions = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    kernel = torch.exp(-positions.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    # One group per channel: four times as fast on a CPU as channels laid out as images.
    channels = images.shape[1]
    rows = F.conv2d(images, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)


class SSIM(MeanOverImages):
    """Mean over images of ``ssim``, higher is better."""

    higher_is_better = True

    def update(
        self,
        prediction: Float[Tensor, "b c h w"],
        target: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"] | None = None,
    ) -> None:
        """Add a batch; arguments as for ``ssim``."""
        self.add(ssim(prediction, target, mask))
