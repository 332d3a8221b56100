"""The vertices that may leave the parametric head: hair, neck and shoulders."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.head.model import HeadModel

MOVING_REGIONS = ("scalp", "neck", "shoulders")
"""Face, ears, eyes and mouth interior stay on the parametric model (ROME sec. 3.2)."""


def moving_vertices(head: HeadModel) -> tuple[Int[Tensor, " m"], Float[Tensor, "m 1"]]:
    """Indices of the vertices that may move, and the share of its offset that each keeps.

    The share fades to 0 towards the face, so that no step forms at the hairline.
    """
    return _moving_vertices(head, head.faces.device)


@lru_cache(maxsize=4)
def _moving_vertices(head: HeadModel, device: torch.device) -> tuple[Int[Tensor, " m"], Float[Tensor, "m 1"]]:
    """Cached: a model and the fit of its outline share them."""
    mask = head.region(*MOVING_REGIONS)
    moving = mask.nonzero().squeeze(1)
    return moving, smooth_mask(mask, head.edges)[moving][:, None]


def smooth_mask(
    mask: Bool[Tensor, " v"], edges: Int[Tensor, "e 2"], num_rings: int = 4
) -> Float[Tensor, " v"]:
    """Fade a vertex mask to 0 over the rings of vertices next to its inner border.

    Args:
        mask: vertices that belong.
        edges: undirected, once each.
        num_rings: width of the transition, in edges.
    """
    start, end = torch.cat([edges, edges.flip(1)]).unbind(1)
    eroded = mask.float()
    total = eroded
    for _ in range(num_rings):
        eroded = eroded.scatter_reduce(0, start, eroded[end], "amin", include_self=True)
        total = total + eroded
    return total / (num_rings + 1)
