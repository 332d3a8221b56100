"""Distance of facial landmarks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

POINT_WEIGHTS = (*(0.5,) * 17, *(1.0,) * 19, *(2.0,) * 12, *(2.0,) * 20)
"""Weights of the 68 points: jaw, brows and nose, eyes, mouth. Detectors place the jaw loosely; eyes and mouth
carry the expression. Departure from ROME: the release's weights are not published as a formula."""


def landmark_distance(
    predicted_px: Float[Tensor, "b 68 d"], target_px: Float[Tensor, "b 68 2"], image_size: tuple[int, int]
) -> Float[Tensor, ""]:
    """Weighted mean of the absolute differences of 68 points.

    ``sum_i w_i (|dx_i| + |dy_i|) / sum_i w_i`` per sample, then the mean. Differences are in NDC, half the
    image side being 1, so the value does not depend on the resolution.

    Args:
        predicted_px: projected points of the mesh, x, y (and z, ignored) in pixels.
        target_px: detected points, pixels.
        image_size: (height, width), pixels.

    Source: ROME's release.
    """
    height, width = image_size
    scale = predicted_px.new_tensor([2 / width, 2 / height])
    weights = torch.tensor(POINT_WEIGHTS, dtype=predicted_px.dtype, device=predicted_px.device)
    distance = ((predicted_px[..., :2] - target_px) * scale).abs().sum(-1)
    return (distance * weights).sum(1).mean() / weights.sum()
