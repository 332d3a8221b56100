"""Chamfer distance in the image plane."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MASK_THRESHOLD = 0.5
"""Threshold above which a pixel belongs to a mask."""


def chamfer_2d(
    vertices_px: Float[Tensor, "b v d"],
    visible: Bool[Tensor, "b v"],
    mask: Float[Tensor, "b 1 h w"],
    squared: bool = False,
    max_points: int = 1024,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Chamfer distance between projected visible vertices and as many points sampled from a mask.

    ``1/2 mean_p min_q |p - q| + 1/2 mean_q min_p |p - q|`` per sample, p vertices, q mask points, then the
    mean over the samples; a sample without visible vertices or with an empty mask gives 0. Distances are
    in NDC, half the image side being 1, so the value does not depend on the resolution.

    Args:
        vertices_px: x, y (and z, ignored) in pixels.
        visible: vertices that count.
        mask: region that the vertices should fill, [0, 1]; points are centres of pixels above 0.5, sampled
            uniformly with replacement.
        squared: squared distances (release) instead of plain ones (paper).
        max_points: if more vertices are visible, a random sample of this size is used.
        generator: for both samples, by default that of the tensors' device; one on another device costs a
            copy.

    Source: ROME sec. 3.4, L_chm.
    """
    height, width = mask.shape[-2:]
    device = generator.device if generator is not None else mask.device
    num_points = min(max_points, vertices_px.shape[1])
    order_keys = torch.rand(visible.shape, generator=generator, device=device).to(mask.device)
    draws = torch.rand(len(mask), num_points, generator=generator, device=device).to(mask.device)

    keys, chosen = torch.where(visible, order_keys, -1.0).topk(num_points, dim=1)
    scale = vertices_px.new_tensor([2 / width, 2 / height])
    vertices = vertices_px[..., :2].gather(1, chosen[..., None].expand(-1, -1, 2)) * scale
    pixels, filled = _draw_pixels(mask, draws)
    points = torch.stack([pixels % width, pixels // width], dim=-1).to(vertices.dtype) * scale
    valid = (keys >= 0) & filled[:, None]
    # Entries beyond the visible vertices repeat the first one, which changes no nearest distance.
    vertices = torch.where(valid[..., None], vertices, vertices[:, :1])
    points = torch.where(valid[..., None], points, points[:, :1])

    to_points, to_vertices = _nearest(vertices.detach(), points)
    distances = _distance(vertices, _pick(points, to_points), squared)
    distances = distances + _distance(points, _pick(vertices, to_vertices), squared)
    counts = valid.sum(1).clamp_min(1)
    return (torch.where(valid, distances, 0.0).sum(1) / (2 * counts)).mean()


def _draw_pixels(
    mask: Float[Tensor, "b 1 h w"], draws: Float[Tensor, "b n"]
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, " b"]]:
    """Flat indices of mask pixels for uniform numbers in [0, 1), and whether each mask has any."""
    # Integer counts, because floating-point sums are not reproducible on a GPU.
    cumulative = (mask > MASK_THRESHOLD).flatten(1).long().cumsum(1)
    total = cumulative[:, -1:]
    # Float32 draws can round up to the count itself.
    rank = (draws.double() * total).long().minimum(total - 1)
    pixels = torch.searchsorted(cumulative, rank.contiguous(), right=True)
    return pixels.clamp_max(cumulative.shape[1] - 1), total.squeeze(1) > 0


@torch.no_grad()
def _nearest(
    a: Float[Tensor, "b n 2"], b: Float[Tensor, "b n 2"]
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Index of the nearest point of ``b`` for each of ``a``, and of ``a`` for each of ``b``."""
    distance = torch.cdist(a, b)
    return distance.argmin(2), distance.argmin(1)


def _pick(points: Float[Tensor, "b n 2"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m 2"]:
    return points.gather(1, index[..., None].expand(-1, -1, 2))


def _distance(a: Float[Tensor, "b n 2"], b: Float[Tensor, "b n 2"], squared: bool) -> Float[Tensor, "b n"]:
    """Row-wise distance; its gradient is 0 where two points coincide."""
    square = (a - b).square().sum(-1)
    if squared:
        return square
    apart = square > 0
    return torch.where(apart, square, 1.0).sqrt() * apart
