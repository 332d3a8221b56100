"""Structural similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.metrics.per_image import MeanOverImages
from rome_lightning.renderer.opencv import can_filter

WINDOW = 11
"""Side of the Gaussian window, pixels."""
SIGMA = 1.5
"""Its standard deviation, pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. for values in [0, 1]."""
_GAUSSIAN = [math.exp(-((place - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for place in range(WINDOW)]
_WEIGHTS = [weight / math.fsum(_GAUSSIAN) for weight in _GAUSSIAN]
"""Of the rows, and of the columns, of a window."""


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

    Values equal scikit-image's; torchmetrics pads by reflection and includes the border in the mean.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004,
    eq. 13, with an 11x11 Gaussian window.

    Example:
        >>> image = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
        >>> ssim(image, image)
        tensor([1.])
    """
    return mean_of_windows(ssim_map(prediction, target), mask)


def ssim_map(
    prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b h2 w2"]:
    """SSIM of each window inside the images, averaged over channels; arguments as for ``ssim``."""
    height, width = prediction.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} pixels a side, got {height}x{width}")
    # Variances are differences of similar numbers: half precision would turn them into noise.
    with torch.autocast(prediction.device.type, enabled=False):
        a, b = prediction.float(), target.float()
        if can_filter(a, b) and has_kernels(a):
            similarity: Tensor = kernels("metrics").windows(a, b, torch.tensor(_WEIGHTS), C1, C2)
            return similarity
        mean_a, mean_b, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b], dim=1)).chunk(5, dim=1)
        covariance = ab - mean_a * mean_b
        variances = aa - mean_a.square() + bb - mean_b.square()
        luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
        return (luminance * (2 * covariance + C2) / (variances + C2)).mean(1)


def mean_of_windows(
    values: Float[Tensor, "b h2 w2"], mask: Float[Tensor, "b 1 h w"] | None = None
) -> Float[Tensor, " b"]:
    """Mean of ``ssim_map`` over the windows; the mask as for ``ssim``."""
    if mask is None:
        return values.flatten(1).mean(1)
    border = WINDOW // 2
    height, width = mask.shape[-2:]
    weight = mask[:, 0, border : height - border, border : width - border]
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def _blur(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Gaussian blur at positions where the window lies inside the image."""
    # One image at a time stays in the CPU cache, which is faster than convolutions.
    return torch.stack([_weighted(_weighted(image, _WEIGHTS, -1), _WEIGHTS, -2) for image in images])


def _weighted(image: Float[Tensor, "c h w"], kernel: Sequence[float], dim: int) -> Float[Tensor, "c h2 w2"]:
    """Weighted sum of neighbours along one dimension."""
    size = image.shape[dim] - len(kernel) + 1
    total = image.narrow(dim, 0, size) * kernel[0]
    for place, weight in enumerate(kernel[1:], start=1):
        total = total.add_(image.narrow(dim, place, size), alpha=weight)
    return total


class SSIM(MeanOverImages):
    """Mean of ``ssim`` over images, higher is better."""

    higher_is_better = True

    def update(
        self,
        prediction: Float[Tensor, "b c h w"],
        target: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"] | None = None,
    ) -> None:
        """Add a batch; arguments as for ``ssim``."""
        self.add(ssim(prediction, target, mask))
