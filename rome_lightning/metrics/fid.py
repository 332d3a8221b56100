"""Frechet Inception distance."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from rome_lightning.pretrained.frozen import FrozenNetwork

NUM_FEATURES = 2048
_SIDE = 299


def inception_features(network: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
    """Features of the last pooling layer.

    Args:
        network: from ``pretrained.quality.load_inception``.
        images: RGB in [0, 1]; rounded to 8 bits, then resized as in TensorFlow 1, like the original FID.
    """
    pixels = (images.clamp(0, 1) * 255).round()
    scale_y, scale_x = pixels.shape[-2] / _SIDE, pixels.shape[-1] / _SIDE
    # TensorFlow 1 lays the corners of the first pixels, not of the images, on each other.
    y = (torch.arange(_SIDE, device=pixels.device) * scale_y + 0.5) * 2 / pixels.shape[-2] - 1
    x = (torch.arange(_SIDE, device=pixels.device) * scale_x + 0.5) * 2 / pixels.shape[-1] - 1
    grid = torch.stack([x.expand(_SIDE, -1), y[:, None].expand(-1, _SIDE)], dim=-1)
    resized = F.grid_sample(
        pixels, grid.expand(len(pixels), -1, -1, -1), padding_mode="border", align_corners=False
    )
    return network((resized - 128) / 128)


def frechet_distance(
    mean_a: Float[Tensor, " d"],
    cov_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    cov_b: Float[Tensor, "d d"],
) -> float:
    """Squared Wasserstein distance between two Gaussians, computed in double precision.

    Source: Heusel et al., GANs trained by a two time-scale update rule, 2017, eq. 6.
    """
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    # Trace of the root of a product: both factors are symmetric, so a symmetric root suffices.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * inner)


class Moments:
    """Running mean and covariance of features, in double precision."""

    def __init__(self, num_features: int = NUM_FEATURES) -> None:
        self.count = 0
        self.total = torch.zeros(num_features, dtype=torch.float64)
        self.outer = torch.zeros(num_features, num_features, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b d"]) -> None:
        """Add the features of a batch."""
        rows = features.detach().double().cpu()
        self.count += len(rows)
        self.total += rows.sum(0)
        self.outer += rows.T @ rows

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Moments of the added features; needs at least two rows."""
        return moments(self.total, self.outer, self.count)


def moments(total: Tensor, outer: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance from sums."""
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


class FID(Metric):
    """Frechet distance between predictions and real images, lower is better.

    It depends on the number of images, so state it: below a few thousand the value is mostly bias. Not
    verified against a published value with the registered network.

    Args:
        network: from ``pretrained.quality.load_inception``, or any feature extractor.
        num_features: its number of features.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(self, network: nn.Module, num_features: int = NUM_FEATURES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = FrozenNetwork(network)
        for side in ("real", "fake"):
            zeros = torch.zeros(num_features, dtype=torch.float64)
            self.add_state(f"{side}_total", zeros, dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.outer(zeros, zeros), dist_reduce_fx="sum")
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, images: Float[Tensor, "b 3 h w"], real: bool) -> None:
        """Add a batch of real or predicted images, RGB in [0, 1]."""
        rows = inception_features(self.network, images).double()
        side = "real" if real else "fake"
        setattr(self, f"{side}_total", getattr(self, f"{side}_total") + rows.sum(0))
        setattr(self, f"{side}_outer", getattr(self, f"{side}_outer") + rows.T @ rows)
        setattr(self, f"{side}_count", getattr(self, f"{side}_count") + len(rows))

    def compute(self) -> Tensor:
        """The distance; NaN with fewer than two images on either side."""
        sides = [
            (getattr(self, f"{s}_total"), getattr(self, f"{s}_outer"), int(getattr(self, f"{s}_count")))
            for s in ("real", "fake")
        ]
        if min(count for *_, count in sides) < 2:
            return torch.tensor(torch.nan)
        (mean_a, cov_a), (mean_b, cov_b) = (moments(*side) for side in sides)
        return torch.tensor(frechet_distance(mean_a, cov_a, mean_b, cov_b))
