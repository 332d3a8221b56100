"""BRISQUE: no-reference image quality from pixel statistics."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.metrics.per_image import MeanOverImages
from rome_lightning.pretrained.quality import SupportVectors

NUM_FEATURES = 36
_WINDOW = 7
_SIGMA = 7 / 6
_STABILIZER = 1 / 255
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbours whose products are used: right, below, both diagonals."""


def brisque_features(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 36"]:
    """The 36 features of BRISQUE: shapes of the distributions of normalized pixels, at two scales.

    Args:
        images: RGB in [0, 1], at least 16 pixels a side.

    Source: Mittal, Moorthy & Bovik, No-reference image quality assessment in the spatial domain, 2012,
    eqs. 1 to 15.
    """
    grey = (images.double() * images.new_tensor([0.299, 0.587, 0.114])[:, None, None].double()).sum(
        1, keepdim=True
    )
    half = F.interpolate(grey, scale_factor=0.5, mode="bicubic", align_corners=False)
    return torch.cat([_features(grey), _features(half)], dim=1)


def _features(grey: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 18"]:
    # Imported on use: it costs a quarter of a second.
    from kornia.filters import gaussian_blur2d

    def blurred(x: Tensor) -> Tensor:
        return gaussian_blur2d(x, (_WINDOW, _WINDOW), (_SIGMA, _SIGMA), border_type="replicate")

    mean = blurred(grey)
    deviation = (blurred(grey.square()) - mean.square()).abs().sqrt()
    normal = (grey - mean) / (deviation + _STABILIZER)
    shape, left, right = _asymmetric_fit(normal.flatten(1))
    columns = [shape, (left.square() + right.square()) / 2]
    for down, across in _SHIFTS:
        other = torch.roll(normal, (-down, -across), dims=(2, 3))
        product = (normal * other)[:, :, : normal.shape[2] - down]
        product = product[..., : product.shape[3] - across] if across >= 0 else product[..., -across:]
        shape, left, right = _asymmetric_fit(product.flatten(1))
        mean_of_fit = (right - left) * torch.exp(
            torch.lgamma(2 / shape) - 0.5 * (torch.lgamma(1 / shape) + torch.lgamma(3 / shape))
        )
        columns += [shape, mean_of_fit, left.square(), right.square()]
    return torch.stack(columns, dim=1)


def _asymmetric_fit(values: Float[Tensor, "b n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and both deviations of the asymmetric generalized Gaussian that matches the values' moments."""
    negative, positive = values < 0, values > 0
    squares = values.square()
    left = ((squares * negative).sum(1) / negative.sum(1).clamp_min(1)).sqrt()
    right = ((squares * positive).sum(1) / positive.sum(1).clamp_min(1)).sqrt()
    ratio = left / right.clamp_min(1e-12)
    moment = values.abs().mean(1).square() / squares.mean(1).clamp_min(1e-12)
    wanted = moment * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    grid = torch.arange(0.2, 10.0, 0.001, dtype=values.dtype, device=values.device)
    table = torch.exp(2 * torch.lgamma(2 / grid) - torch.lgamma(1 / grid) - torch.lgamma(3 / grid))
    # The table increases with the shape, so bisection finds the nearest entry.
    place = torch.searchsorted(table, wanted.contiguous()).clamp(1, len(grid) - 1)
    nearer = (table[place] - wanted).abs() < (table[place - 1] - wanted).abs()
    return grid[torch.where(nearer, place, place - 1)], left, right


def brisque(model: SupportVectors, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Score of each image, from about 0 (natural) to 100 (distorted).

    Uniform areas, such as a white background, have no natural statistics: compare only within one protocol.

    Args:
        model: from ``pretrained.quality.load_brisque``.
        images: RGB in [0, 1].
    """
    features = brisque_features(images)
    low, high = model.low.to(features), model.high.to(features)
    scaled = -1 + 2 * (features - low) / (high - low)
    squared = (scaled[:, None] - model.vectors.to(features)).square().sum(-1)
    return ((-model.gamma * squared).exp() @ model.coefficients.to(features) - model.offset).float()


class Brisque(MeanOverImages):
    """Mean over images of ``brisque``, lower is better.

    Args:
        model: from ``pretrained.quality.load_brisque``.
    """

    higher_is_better = False

    def __init__(self, model: SupportVectors, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def update(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Add a batch."""
        self.add(brisque(self.model, images))
