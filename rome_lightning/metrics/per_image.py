"""Mean over images, exact for batches of different sizes and over processes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class MeanOverImages(Metric):
    """Average of one value per image; keeps sums and counts, so batches and ranks may differ in size."""

    full_state_update = False
    is_differentiable = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values: Float[Tensor, " b"]) -> None:
        """Add the values of a batch of images."""
        self.total = self.total + values.detach().double().sum()
        self.count = self.count + values.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Mean over all images so far; NaN without any."""
        return (self.total / self.count).float()
