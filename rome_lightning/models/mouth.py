"""Mouth and eyes in a photograph: the areas between lips and lids, and whether a driven mouth matches."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.types.landmarks import EYE_OUTLINES, INNER_LIPS_OUTLINE

EDGE = 0.0019
"""Error of landmarks at the edge of an opening, image widths."""

SAME, ANOTHER = 0.06, 0.2
"""Change of the opening, in widths of the mouth, up to which it is the photograph's mouth, and from which it
is not."""
SAME_CLOSING, ANOTHER_CLOSING = 0.025, 0.08
"""The same for a mouth that is closed, whose lips would show the photograph's teeth."""
CLOSED, OPEN = 0.06, 0.12
"""Opening up to which a mouth counts as closed, and from which as open."""
_LIPS = {"mediapipe": (13, 14, 78, 308), "ibug68": (62, 66, 60, 64)}
"""Landmarks of the upper and lower inner lip and of the inner corners, by landmark set."""


def lip_vertices(head: HeadModel) -> Int[Tensor, " n"]:
    """Vertices of the upper and lower inner lip and of both corners; empty for a head without landmarks."""
    for name, points in _LIPS.items():
        if name in head.landmark_names:
            corners: Tensor = getattr(head, f"landmark_corners_{name}")[list(points)]
            weights: Tensor = getattr(head, f"landmark_weights_{name}")[list(points)]
            return corners.gather(1, weights.argmax(1, keepdim=True))[:, 0]
    return torch.zeros(0, dtype=torch.long, device=head.faces.device)


def same_mouth(
    before: Float[Tensor, "b n v 2"], after: Float[Tensor, "b v 2"], lips: Int[Tensor, " m"]
) -> Float[Tensor, "b n"]:
    """Whether driven mouths are as open as in each photograph, [0, 1].

    Args:
        before: the mesh in each photograph, any unit.
        after: the driven mesh.
        lips: see ``lip_vertices``.
    """
    if len(lips) == 0:
        return torch.ones_like(before[:, :, 0, 0])
    now = _opening(after[:, None, lips])
    change = now - _opening(before[:, :, lips])
    alike = ((ANOTHER - change.abs()) / (ANOTHER - SAME)).clamp(0, 1)
    closed_alike = ((ANOTHER_CLOSING + change) / (ANOTHER_CLOSING - SAME_CLOSING)).clamp(0, 1)
    is_open = ((now - CLOSED) / (OPEN - CLOSED)).clamp(0, 1)
    return alike * torch.lerp(closed_alike, torch.ones_like(alike), is_open)


def _opening(points: Float[Tensor, "b n 4 2"]) -> Float[Tensor, "b n"]:
    """Height of the opening, in widths of the mouth."""
    upper, lower, one, other = points.unbind(2)
    return (upper - lower).norm(dim=-1) / (one - other).norm(dim=-1).clamp_min(1e-6)


def between_lips(
    landmarks_px: Float[Tensor, "b l 2"], image_size: tuple[int, int]
) -> Float[Tensor, "b 1 h w"]:
    """1 between the lips, 0 elsewhere.

    Args:
        landmarks_px: MediaPipe's, in pixels (x, y); pixel centres at integers.
        image_size: height and width, pixels.
    """
    return _within(landmarks_px[:, list(INNER_LIPS_OUTLINE)], image_size)


def between_lids(
    landmarks_px: Float[Tensor, "b l 2"], image_size: tuple[int, int]
) -> Float[Tensor, "b 1 h w"]:
    """1 between the lids of both eyes, 0 elsewhere; arguments as for ``between_lips``.

    Not enlarged: the lashes at its edge belong to the lids.
    """
    right, left = (_within(landmarks_px[:, list(outline)], image_size) for outline in EYE_OUTLINES)
    return torch.maximum(right, left)


def widened(opening: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """An opening enlarged by the landmarks' error; that of closed lips, a line, vanishes."""
    edge = round(EDGE * opening.shape[-1])
    line = max(1, edge)
    return dilate(erode(opening, line), line + edge)


def _within(corners: Float[Tensor, "b n 2"], image_size: tuple[int, int]) -> Float[Tensor, "b 1 h w"]:
    """1 at pixel centres inside a polygon: a ray to the left crosses its sides an odd number of times."""
    rows = torch.arange(image_size[0], device=corners.device, dtype=corners.dtype)[:, None]
    columns = torch.arange(image_size[1], device=corners.device, dtype=corners.dtype)
    odd = torch.zeros(len(corners), *image_size, dtype=torch.bool, device=corners.device)
    for start, end in zip(corners.unbind(1), corners.roll(-1, 1).unbind(1), strict=True):
        (x0, y0), (x1, y1) = start[..., None, None].unbind(1), end[..., None, None].unbind(1)
        spans = (y0 > rows) != (y1 > rows)
        # A horizontal side spans no row, so its divisor does not matter.
        slope = (x1 - x0) / torch.where(y1 == y0, 1.0, y1 - y0)
        odd = odd ^ (spans & (columns > x0 + slope * (rows - y0)))
    return odd[:, None].to(corners.dtype)
