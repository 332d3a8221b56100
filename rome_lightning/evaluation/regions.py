"""Parts of a real frame that pixel metrics look at alone: weights from its region map and landmarks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_lightning.geometry.openings import mouth_opening
from rome_lightning.types import Frames, Region
from rome_lightning.types.landmarks import CHIN, INNER_LIPS_OUTLINE, LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS

REGION_CHOICES = ("head", "hair", "mouth", "eyes", "shoulders")
"""``head``: hair, skin of the face and what is worn there. ``hair``. ``mouth``: inside the lips, where the
mouth is open. ``eyes``: both, with lids and lashes. ``shoulders``: clothes and skin below the chin."""
OPEN_MOUTH = 0.15
"""``mouth_opening`` from which a mouth counts as open."""

_EYE_WIDTH, _EYE_HEIGHT = 1.4, 0.8
"""Sides of the rectangle around an eye over the distance of its corners."""


def region_weight(
    choice: str, frames: Frames, landmarks: Float[Tensor, "b 478 2"], face: Bool[Tensor, " b"]
) -> Float[Tensor, "b 1 h w"]:
    """1 for the pixels of a region, else 0; all 0 where a region needs a face and there is none.

    Args:
        choice: one of ``REGION_CHOICES``.
        frames: real ones.
        landmarks: of the frames, pixels.
        face: whether the landmarks were found.
    """
    if choice == "head":
        return frames.region_mask(Region.HAIR, Region.FACE_SKIN, Region.OTHER)
    if choice == "hair":
        return frames.region_mask(Region.HAIR)
    size = frames.image_size
    if choice == "mouth":
        inside = inside_polygon(landmarks[:, list(INNER_LIPS_OUTLINE)], size)
        inside = inside & (mouth_opening(landmarks) >= OPEN_MOUTH)[:, None, None]
    elif choice == "eyes":
        eyes = RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS
        first, second = (_beside(landmarks[:, list(corners)], size) for corners in eyes)
        inside = first | second
    else:
        below = torch.arange(size[0]) > landmarks[:, CHIN, 1:]
        inside = below[:, :, None].expand(-1, -1, size[1])
        inside = inside & (frames.region_mask(Region.CLOTHES, Region.BODY_SKIN)[:, 0] > 0)
    return (inside & face[:, None, None])[:, None].float()


def inside_polygon(corners: Float[Tensor, "b n 2"], size: tuple[int, int]) -> Bool[Tensor, "b h w"]:
    """Whether the centre of each pixel lies inside a polygon, by the number of edges to its right.

    Args:
        corners: x and y in order around it, pixels; pixel centres at integers.
        size: height and width, pixels.
    """
    height, width = size
    x, y = torch.arange(width), torch.arange(height)[:, None]
    inside = torch.zeros(len(corners), height, width, dtype=torch.bool)
    for a, b in zip(corners.unbind(1), corners.roll(-1, 1).unbind(1), strict=True):
        (ax, ay), (bx, by) = (point[:, :, None, None].unbind(1) for point in (a, b))
        rise = torch.where(by == ay, torch.ones_like(by), by - ay)
        crosses = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / rise)
        inside = inside ^ crosses
    return inside


def _beside(corners: Float[Tensor, "b 2 2"], size: tuple[int, int]) -> Bool[Tensor, "b h w"]:
    """The rectangle around an eye, along the line through its corners."""
    middle, along = corners.mean(1), corners[:, 1] - corners[:, 0]
    across = torch.stack([-along[:, 1], along[:, 0]], dim=-1)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    points = [middle + _EYE_WIDTH / 2 * s * along + _EYE_HEIGHT / 2 * t * across for s, t in signs]
    return inside_polygon(torch.stack(points, dim=1), size)
