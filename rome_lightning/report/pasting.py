"""An avatar put back into the whole picture that its square was cut from."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar import Avatar
from rome_lightning.media.image import to_uint8
from rome_lightning.report.backgrounds import without_person
from rome_lightning.tracking import Tracker
from rome_lightning.tracking.crop import RELEASE_RULE, Crop, crop_clip

_EDGE = 0.08
"""Width of the strip inside the square's border in which the picture takes over, share of the side."""
_SAME = 0.02
"""Mean difference of colours, [0, 1], up to which a square is the avatar's photograph."""


class Pasting:
    """A picture in which a square shows an avatar instead of the person.

    Args:
        frame: the whole picture, RGB.
        crop: the square.
        person: opacity of the person in the square at any size; what it hides is filled smoothly.
    """

    def __init__(
        self, frame: UInt8[np.ndarray, "h w 3"], crop: Crop, person: Float[Tensor, "1 1 s s"]
    ) -> None:
        self.frame, self.crop = frame, crop
        self._square = _tensor(crop.extract(frame, crop.side))
        small = _tensor(crop.extract(frame, person.shape[-1]))
        filled, seen = without_person(small, person)
        filled, seen = (_resized(layer, crop.side) for layer in (filled, seen))
        self._behind = torch.lerp(filled, self._square, seen)
        self._window = _window(crop)

    def __call__(
        self, rgb: Float[Tensor, "3 s s"], mask: Float[Tensor, "1 s s"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The whole picture.

        Args:
            rgb: the avatar's colours, [0, 1], as large as may be.
            mask: its opacity, [0, 1].
        """
        crop, (height, width) = self.crop, self.crop.frame_size
        colour, opacity = (_resized(layer[None].cpu(), crop.side) for layer in (rgb, mask))
        shown = torch.lerp(self._behind, colour, opacity)
        square = to_uint8(torch.lerp(self._square, shown, self._window))[0]
        left, top = max(crop.left, 0), max(crop.top, 0)
        right, bottom = min(crop.left + crop.side, width), min(crop.top + crop.side, height)
        whole = self.frame.copy()
        whole[top:bottom, left:right] = square[
            top - crop.top : bottom - crop.top, left - crop.left : right - crop.left
        ]
        return whole


def photo_pasting(avatar: Avatar, photo: UInt8[np.ndarray, "h w 3"]) -> Pasting:
    """The avatar's first photograph, whole, with the avatar in the place of the person.

    Args:
        avatar: keeps the square around the head only.
        photo: the photograph that the square was cut from.

    Raises:
        ValueError: no face in it has the avatar's square around it.
    """
    kept = avatar.photos[slice(0, 1)]
    size = kept.image_size[0]
    tracker = Tracker(avatar.model.head, size)
    detector = tracker.detector
    largest = detector.detect(photo[None], face=0)
    for face in range(int(largest.num_faces[0]) + 1):
        found = largest if face == 0 else detector.detect(photo[None], face=face)
        if not bool(found.found[0]):
            continue
        squares = [
            crop_clip(found.landmarks, (photo.shape[0], photo.shape[1]), rule)
            for rule in (None, RELEASE_RULE)
        ]
        for crop in (tracker.with_whole_hair(photo, squares[0]), *squares):
            square = _tensor(crop.extract(photo, size))
            if float((square - kept.image.cpu()).abs().mean()) < _SAME:
                return Pasting(photo, crop, kept.foreground_mask.cpu())
    raise ValueError(
        "--paste-back needs the photograph that the avatar was made from, upright and uncropped; no face "
        "in this one has the same square around it"
    )


def _tensor(picture: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def _resized(layer: Float[Tensor, "1 c s s"], side: int) -> Float[Tensor, "1 c t t"]:
    if layer.shape[-1] == side:
        return layer
    return F.interpolate(layer, (side, side), mode="bilinear", antialias=True)


def _window(crop: Crop) -> Float[Tensor, "1 1 s s"]:
    """1 inside the square, 0 at those of its borders that lie within the picture."""
    height, width = crop.frame_size
    steps = (torch.arange(crop.side) + 0.5) / (_EDGE * crop.side)
    rising = steps.clamp(max=1)
    ramps = []
    for start, length in ((crop.top, height), (crop.left, width)):
        before = rising if start > 0 else torch.ones_like(rising)
        after = rising.flip(0) if start + crop.side < length else torch.ones_like(rising)
        ramps.append(torch.minimum(before, after))
    return torch.minimum(ramps[0][:, None], ramps[1][None, :])[None, None]
