"""FFHQ's framing of a source: rotated until the eyes are level, and scaled."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.types import Frames
from rome_lightning.types.landmarks import IBUG68

ENLARGEMENT = 1.25
"""Side of the view over that of FFHQ's square (the release's ``align_scale``)."""
_EYES = (slice(36, 42), slice(42, 48))
_MOUTH = (48, 54)


def ffhq_squares(landmarks: Float[Tensor, "b 478 2"]) -> Float[Tensor, "b 2 3"]:
    """Maps from the view, with corners at -1 and 1, to pixels of the picture.

    The square is oriented by the mean direction of the eyes' axis and the normal of the face's, and its side
    is four times the distance of the eyes or 3.6 times that from eyes to mouth.

    Args:
        landmarks: MediaPipe's, pixels.

    Departure from ROME: the 68 points are MediaPipe's landmarks at the places of FAN's.
    Source: Karras et al., A style-based generator architecture, 2019, app. A; ``calc_ffhq_alignment`` and
    ``preprocess_dict`` of the release.

    Raises:
        ValueError: a face has no extent, because its landmarks were never found.
    """
    points = torch.stack([landmarks[:, list(rows)].mean(1) for rows in IBUG68], dim=1)
    left, right = (points[:, part].mean(1) for part in _EYES)
    eyes = (left + right) / 2
    across = right - left
    down = points[:, list(_MOUTH)].mean(1) - eyes
    direction = across + torch.stack([down[:, 1], -down[:, 0]], dim=1)
    length = direction.norm(dim=1, keepdim=True)
    half = torch.maximum(2 * across.norm(dim=1), 1.8 * down.norm(dim=1))[:, None] * ENLARGEMENT
    if bool((length * half < 1).any()):
        raise ValueError("a source without landmarks cannot be framed; set avatar.framing to crop")
    x = direction / length * half
    y = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    return torch.stack([x, y, eyes + 0.1 * down], dim=2)


def as_ffhq(source: Frames) -> Frames:
    """The same sources with the picture and matte in FFHQ's framing; black outside, as in the release.

    Only networks that look at the picture alone may use the result: its landmarks, regions and parameters
    are those of the given picture.
    """
    size = source.image_size
    scale = source.image.new_tensor([2 / size[1], 2 / size[0]])
    squares = ffhq_squares(source.landmarks.to(source.image.dtype))
    # From pixels, whose centres are integers, to the picture with corners at -1 and 1.
    squares[:, :, 2] += 0.5
    theta = squares * scale[:, None] - torch.tensor([0.0, 0.0, 1.0]).to(scale)
    grid = F.affine_grid(theta, [len(source), 4, *size], align_corners=False)
    stacked = torch.cat([source.image, source.foreground_mask], dim=1)
    seen = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return dataclasses.replace(source, image=seen[:, :3], foreground_mask=seen[:, 3:])
