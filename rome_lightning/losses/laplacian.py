"""Smoothness of vertex offsets."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


def laplacian(
    offsets: Float[Tensor, "b v 3"], edges: Int[Tensor, "e 2"], norm: Literal["l1", "l2"] = "l1"
) -> Float[Tensor, ""]:
    """Mean length of the uniform Laplacian of the offsets.

    ``1 / (b v) sum_i || mean_{j in N(i)} o_j - o_i ||``; vertices without an edge count as 0. It smooths the
    offsets, not the vertices, so it does not shrink the head.

    Args:
        offsets: displacements of the vertices, metres.
        edges: undirected, each once, see ``geometry.unique_edges``.
        norm: of each vertex: ``l1`` (paper) or ``l2`` (release).

    Source: ROME sec. 3.4, L_lap (after Sorkine et al., Laplacian surface editing, 2004, eq. 1).
    """
    if edges.shape[-1] != 2:
        raise ValueError(
            f"laplacian needs edges (e, 2), got {tuple(edges.shape)}; compute them once with "
            "unique_edges(faces)"
        )
    if norm not in ("l1", "l2"):
        raise ValueError(f"the norm of the Laplacian is l1 or l2, got {norm!r}")
    start, end = torch.cat([edges, edges.flip(1)]).unbind(1)
    degree = offsets.new_zeros(offsets.shape[1]).index_add(0, start, offsets.new_ones(len(start)))
    differences = offsets[:, end] - offsets[:, start]
    sums = torch.zeros_like(offsets).index_add(1, start, differences)
    rows = sums / degree.clamp_min(1)[:, None]
    if norm == "l1":
        return rows.abs().sum(-1).mean()
    # The Euclidean norm has no gradient at 0, where meshes without offsets start.
    squared = rows.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, squared, 1.0).sqrt().mul(positive).mean()
