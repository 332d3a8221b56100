"""The square crop of a clip, with head, hair and shoulders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

# Diagonal of the box of the landmarks of a frontal face, in heights of the box.
_DIAGONAL = 1.3


@dataclass(frozen=True)
class CropRule:
    """Size and position of the square, in heights of the face (hairline to chin, of the landmarks)."""

    zoom: float = 2.2
    """Side of the square if it fits into the frame."""
    min_zoom: float = 1.65
    """Smallest side to which the square shrinks to fit into the frame; beyond that it is padded."""
    upward: float = 0.02
    """Shift of the square's centre from the face's, towards the hair."""
    margin: float = 0.35
    """Smallest distance between face and border during motion, halved if the frame is small."""
    max_growth: float = 1.6
    """Largest factor by which motion may enlarge the square; frames beyond it are cut."""
    max_zoom: float = 3.0
    """Largest side to which the square of a photo grows so that it does not cut the hair."""
    max_overhang: float = 0.12
    """Largest share of the photo's width by which that square may be wider than the photo."""
    max_raise: float = 0.15
    """Largest share of its side by which it then moves up, which cuts the shoulders."""

    def __post_init__(self) -> None:
        if not 1 < self.min_zoom <= self.zoom:
            raise ValueError(
                f"crop needs 1 < min_zoom <= zoom, got min_zoom {self.min_zoom} and zoom {self.zoom}"
            )
        if self.max_zoom < self.zoom:
            raise ValueError(
                f"crop needs zoom <= max_zoom, got zoom {self.zoom} and max_zoom {self.max_zoom}"
            )


RELEASE_RULE = CropRule(zoom=1.7, min_zoom=1.6, upward=0.1, max_zoom=1.7, max_overhang=0.0, max_raise=0.0)
"""The square that the release's demo cuts from photographs and drivers: twice the extent of its 68 landmarks,
moved up by a sixth of that extent. What its networks see of it is rotated and scaled further, see
``AvatarConfig.framing``.

Source: ``process_source_for_input_dict`` in ``infer.py`` of the release.
"""


@dataclass(frozen=True)
class Crop:
    """A square of whole pixels of the frame; it may reach beyond the frame."""

    left: int
    """First column, may be negative."""
    top: int
    """First row, may be negative."""
    side: int
    """Columns and rows."""
    frame_size: tuple[int, int]
    """(height, width) of the frames it belongs to."""

    def to_crop(self, points_px: Float[Tensor, "*n d"], image_size: int) -> Float[Tensor, "*n d"]:
        """Map pixels of the frame to pixels of the crop at ``image_size``.

        Args:
            points_px: (x, y) and, if present, depth, which takes the scale of x.
            image_size: side of the resampled crop.
        """
        scale = image_size / self.side
        corner = torch.tensor([self.left, self.top], dtype=points_px.dtype)
        xy = (points_px[..., :2] + 0.5 - corner) * scale - 0.5
        return torch.cat([xy, points_px[..., 2:] * scale], dim=-1)

    def to_frame(self, points_px: Float[Tensor, "*n d"], image_size: int) -> Float[Tensor, "*n d"]:
        """Inverse of ``to_crop``."""
        scale = self.side / image_size
        corner = torch.tensor([self.left, self.top], dtype=points_px.dtype)
        xy = (points_px[..., :2] + 0.5) * scale + corner - 0.5
        return torch.cat([xy, points_px[..., 2:] * scale], dim=-1)

    def extract(self, frame: UInt8[np.ndarray, "h w 3"], image_size: int) -> UInt8[np.ndarray, "s s 3"]:
        """Resample the square with antialiasing; outside the frame the nearest border pixel is repeated."""
        height, width = self.frame_size
        if frame.shape[:2] != self.frame_size:
            raise ValueError(f"this crop is for frames of {self.frame_size}, got {frame.shape[:2]}")
        right, bottom = self.left + self.side, self.top + self.side
        inner = frame[max(self.top, 0) : min(bottom, height), max(self.left, 0) : min(right, width)]
        padding = (
            (max(-self.top, 0), max(bottom - height, 0)),
            (max(-self.left, 0), max(right - width, 0)),
            (0, 0),
        )
        if any(before or after for before, after in padding):
            inner = np.pad(inner, padding, mode="edge")
        if self.side == image_size:
            return np.ascontiguousarray(inner)
        size = (image_size, image_size)
        return np.array(Image.fromarray(inner).resize(size, Image.Resampling.BICUBIC))

    def inside(self, image_size: int) -> Bool[Tensor, "s s"]:
        """Pixels of the resampled crop whose centre lies in the frame; the others are padding."""
        height, width = self.frame_size
        centres = (torch.arange(image_size) + 0.5) * self.side / image_size
        rows = ((centres + self.top) > 0) & ((centres + self.top) < height)
        columns = ((centres + self.left) > 0) & ((centres + self.left) < width)
        return rows[:, None] & columns[None, :]

    def reaching(self, top: int, rule: CropRule) -> Crop:
        """The square with a higher upper border: larger if rule and frame allow it, and moved up by the rest.

        Args:
            top: row that it should reach, if possible.
            rule: that made the square.
        """
        bottom = self.top + self.side
        room = round((1 + rule.max_overhang) * self.frame_size[1])
        largest = min(round(self.side * rule.max_zoom / rule.zoom), room)
        side = max(self.side, min(bottom - top, largest))
        top = max(top, bottom - side - round(rule.max_raise * side))
        left = _inside_frame(self.left + (self.side - side) / 2, side, self.frame_size[1])
        return Crop(left, top, side, self.frame_size)


def crop_clip(
    landmarks_px: Float[Tensor, "n l 2"], frame_size: tuple[int, int], rule: CropRule | None = None
) -> Crop:
    """One fixed square for all frames of a clip, or for a photo.

    Departure from ROME: the release takes a square of each frame. One for all of them keeps the camera of a
    clip fixed, so the motion of the head is left to its pose.

    The side is the rule's zoom of the median face, enlarged if the head moves. If it leaves the frame, the
    square is first moved and then shrunk down to ``min_zoom``; the rest is padded.

    Args:
        landmarks_px: frames with a trusted face, pixels of the frame.
        frame_size: (height, width).
        rule: size and position.
    """
    rule = rule or CropRule()
    if len(landmarks_px) == 0:
        raise ValueError("cannot crop a clip without a single usable face")
    low, high = landmarks_px.amin(1), landmarks_px.amax(1)
    extent = high - low
    # A face in profile is narrow and a nod makes it short; the diagonal is more stable.
    face = float(extent.norm(dim=-1).median()) / _DIAGONAL
    # Outliers of one or two frames must not enlarge the square of the whole clip.
    first, last = _quantile(low, 0.02), _quantile(high, 0.98)
    motion = float((last - first).max())
    wanted = min(max(rule.zoom * face, motion + 2 * rule.margin * face), rule.max_growth * rule.zoom * face)
    least = min(max(rule.min_zoom * face, motion + rule.margin * face), wanted)
    side = round(max(least, min(wanted, *frame_size)))
    centre = (first + last) / 2 - torch.tensor([0.0, rule.upward * face])
    left, top = (
        _inside_frame(float(c) + 0.5 - side / 2, side, length)
        for c, length in zip(centre, (frame_size[1], frame_size[0]), strict=True)
    )
    return Crop(left, top, side, frame_size)


def _quantile(values: Float[Tensor, "n 2"], share: float) -> Float[Tensor, " 2"]:
    return torch.quantile(values.float(), share, dim=0)


def _inside_frame(start: float, side: int, length: int) -> int:
    """Move an interval into [0, length) if it fits, else so that it covers all of it."""
    if side <= length:
        return round(min(max(start, 0), length - side))
    return round(min(max(start, length - side), 0))
