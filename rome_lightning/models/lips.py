"""Where a photograph shows what lies between the lips."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.types.landmarks import INNER_LIPS_OUTLINE

EDGE = 0.0019
"""How far landmarks miss the edge of an opening, share of the picture's width."""


def between_lips(
    landmarks_px: Float[Tensor, "b l 2"], image_size: tuple[int, int]
) -> Float[Tensor, "b 1 h w"]:
    """1 between the lips, 0 elsewhere.

    Args:
        landmarks_px: MediaPipe's, in pixels (x, y); pixel centres at integers.
        image_size: height and width, pixels.
    """
    return _within(landmarks_px[:, list(INNER_LIPS_OUTLINE)], image_size)


def widened(opening: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """An opening with what landmarks miss of it; that of closed lips, a line, vanishes."""
    edge = round(EDGE * opening.shape[-1])
    line = max(1, edge)
    return dilate(erode(opening, line), line + edge)


def _within(corners: Float[Tensor, "b n 2"], image_size: tuple[int, int]) -> Float[Tensor, "b 1 h w"]:
    """1 at pixel centres within a polygon: a ray to the left crosses its sides an odd number of times."""
    rows = torch.arange(image_size[0], device=corners.device, dtype=corners.dtype)[:, None]
    columns = torch.arange(image_size[1], device=corners.device, dtype=corners.dtype)
    odd = torch.zeros(len(corners), *image_size, dtype=torch.bool, device=corners.device)
    for start, end in zip(corners.unbind(1), corners.roll(-1, 1).unbind(1), strict=True):
        (x0, y0), (x1, y1) = start[..., None, None].unbind(1), end[..., None, None].unbind(1)
        spans = (y0 > rows) != (y1 > rows)
        # A level side spans no row, so what it divides by is of no matter.
        slope = (x1 - x0) / torch.where(y1 == y0, 1.0, y1 - y0)
        odd = odd ^ (spans & (columns > x0 + slope * (rows - y0)))
    return odd[:, None].to(corners.dtype)
