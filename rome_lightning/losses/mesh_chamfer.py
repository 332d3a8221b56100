"""Chamfer distance between 3D point sets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def chamfer_3d(a: Float[Tensor, "b n 3"], b: Float[Tensor, "b m 3"]) -> Float[Tensor, ""]:
    """Half of ``mean_p min_q |p - q| + mean_q min_p |p - q|`` per item, then the mean over the items.

    The gradient flows to both sets; it is 0 at a distance of 0.

    Args:
        a: points, any unit.
        b: points, same unit.
    """
    with torch.no_grad():
        distance = torch.cdist(a, b)
        to_b, to_a = distance.argmin(2), distance.argmin(1)

    def mean_distance(points: Tensor, others: Tensor, index: Tensor) -> Tensor:
        nearest = others.gather(1, index[..., None].expand(-1, -1, 3))
        square = (points - nearest).square().sum(-1)
        apart = square > 0
        return (torch.where(apart, square, 1.0).sqrt() * apart).mean()

    return (mean_distance(a, b, to_b) + mean_distance(b, a, to_a)) / 2
