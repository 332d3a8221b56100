"""The similarity that brings points to others: the one closed form behind every alignment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Similarity(NamedTuple):
    """``scale * rotation @ point + shift``."""

    scale: Float[Tensor, "*b"]
    rotation: Float[Tensor, "*b d d"]
    shift: Float[Tensor, "*b d"]

    def __call__(self, points: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n d"]:
        """Move points."""
        turned = points @ self.rotation.transpose(-1, -2)
        return self.scale[..., None, None] * turned + self.shift[..., None, :]


def similarity(
    source: Float[Tensor, "*b n d"],
    target: Float[Tensor, "*b n d"],
    weights: Float[Tensor, " n"] | None = None,
    with_scale: bool = True,
) -> Similarity:
    """Rotation, scale and shift that bring points to others with the least squared error.

    Args:
        source: in the plane or in space, not all on one line.
        target: the corresponding points.
        weights: of the points, not negative; equal by default.
        with_scale: whether to fit a scale; else it is 1.

    Source: Umeyama, Least-squares estimation of transformation parameters, 1991, eq. 39-42.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> found = similarity(corners, 2 * corners + 3)
        >>> found.scale.round(decimals=3), found.shift.round(decimals=3)
        (tensor(2.), tensor([3., 3.]))
    """
    if weights is None:
        centre, goal = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
        share: Tensor | float = 1.0
    else:
        share = (weights / weights.sum())[:, None]
        centre, goal = ((share * points).sum(-2, keepdim=True) for points in (source, target))
    local = source - centre
    left, singular, right = torch.linalg.svd(((target - goal) * share).transpose(-1, -2) @ local)
    # Never a reflection.
    signs = torch.ones_like(singular)
    signs[..., -1] = torch.sign(torch.linalg.det(left @ right))
    rotation = (left * signs[..., None, :]) @ right
    scale = (singular * signs).sum(-1) / (share * local.square()).sum((-2, -1))
    if not with_scale:
        scale = torch.ones_like(scale)
    shift = goal.squeeze(-2) - scale[..., None] * (rotation @ centre.transpose(-1, -2)).squeeze(-1)
    return Similarity(scale, rotation, shift)
