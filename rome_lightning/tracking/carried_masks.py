"""Masks of a frame carried by optical flow from the frames before and after it.

Between neighbours of a video the outline of a person moves more than it changes, so the two computed masks
around a frame, moved along the flow, mostly agree with the one that the networks would give. Where they do
not, or the frame shows something that neither neighbour does, there is no carried mask.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from rome_lightning.tracking.flow import FLOW_SIZE

_BLUR_PX = 2.0
"""Standard deviation over which differences of pictures are averaged."""
_ALIKE_GREY = 2.0
"""Difference of grey levels below which a neighbour gets little more weight."""
_OTHER_GREY = 20.0
"""Difference of grey levels from which on a pixel shows something else."""
_OUTLINE = (0.05, 0.95)
"""Opacity of an outline; two pixels around it belong to it."""
_SMALL = np.ones((5, 5), np.uint8)


@dataclass(frozen=True)
class CarryRule:
    """When two carried masks may stand for a computed one.

    With these bounds, carried masks differ from computed ones less than those of the same picture stored as
    JPEG of quality 90, or moved by a pixel, do (docs/performance.md).
    """

    max_labels: float = 0.01
    """Largest share of pixels with two labels."""
    max_matte: float = 0.08
    """Largest mean difference of both opacities along the outline."""
    max_other: float = 0.001
    """Largest share of pixels that look unlike both neighbours: something else is there."""


class Masks(NamedTuple):
    """Regions and opacity of one frame."""

    labels: UInt8[np.ndarray, "s s"]
    matte: Float32[np.ndarray, "s s"]


def carry(
    pictures: UInt8[np.ndarray, "3 s s 3"], before: Masks, after: Masks, rule: CarryRule
) -> Masks | None:
    """Masks of the middle one of three frames; ``None`` where they must be computed.

    Args:
        pictures: RGB, the frame between its neighbours.
        before: of the first.
        after: of the last.
        rule: bounds.
    """
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    first, second = _Neighbour(greys[1], greys[0]), _Neighbour(greys[1], greys[2])
    if (np.minimum(first.difference, second.difference) > _OTHER_GREY).mean() > rule.max_other:
        return None
    mattes = first.moved(before.matte), second.moved(after.matte)
    share = np.square(second.difference + _ALIKE_GREY)
    share /= share + np.square(first.difference + _ALIKE_GREY)
    matte = cv2.blendLinear(*mattes, share, 1 - share)
    outline = cv2.dilate(cv2.inRange(matte, *_OUTLINE), _SMALL) > 0
    if outline.any() and np.abs(mattes[0] - mattes[1])[outline].mean() > rule.max_matte:
        return None
    classes = np.flatnonzero(np.bincount(np.stack([before.labels, after.labels]).ravel()))
    votes = first.votes(before.labels, classes), second.votes(after.labels, classes)
    labels = [_most_voted(of_one, classes) for of_one in votes]
    if (labels[0] != labels[1]).mean() > rule.max_labels:
        return None
    both = [cv2.blendLinear(one, other, share, 1 - share) for one, other in zip(*votes, strict=True)]
    return Masks(_most_voted(both, classes), matte)


class _Neighbour:
    """A frame before or after, and where the points of the frame between are in it.

    Args:
        grey: the frame between.
        other: the neighbour.
    """

    def __init__(self, grey: UInt8[np.ndarray, "s s"], other: UInt8[np.ndarray, "s s"]) -> None:
        height, width = grey.shape
        size = (FLOW_SIZE, FLOW_SIZE)
        small, small_other = (
            np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)) for picture in (grey, other)
        )
        method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        flow = np.asarray(method.calc(small, small_other, np.zeros((*size, 2), np.float32)))
        flow = np.asarray(cv2.resize(flow, (width, height)))
        at_x, at_y = flow[..., 0] * (width / FLOW_SIZE), flow[..., 1] * (height / FLOW_SIZE)
        rows, columns = _pixels(height, width)
        self._places = cv2.convertMaps(at_x + columns, at_y + rows, cv2.CV_16SC2)
        blur = _BLUR_PX * width / FLOW_SIZE
        difference = cv2.absdiff(self.moved(other), grey).astype(np.float32)
        self.difference = cv2.GaussianBlur(difference, (0, 0), blur)
        """Grey levels between the frame and the moved neighbour."""

    def moved(self, values: np.ndarray) -> np.ndarray:
        """Values of the neighbour, (s, s) or (s, s, c), where the frame has them."""
        whole, parts = self._places
        result = cv2.remap(values, whole, parts, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(result)

    def votes(self, labels: UInt8[np.ndarray, "s s"], classes: np.ndarray) -> list[UInt8[np.ndarray, "s s"]]:
        """Share of each class at each place, 0 to 255."""
        masks = [cv2.inRange(labels, int(number), int(number)) for number in classes]
        planes: list[np.ndarray] = []
        # Three planes move together in the time of one.
        for start in range(0, len(masks), 3):
            planes += cv2.split(self.moved(cv2.merge(masks[start : start + 3])))
        return planes


@functools.lru_cache(maxsize=4)
def _pixels(height: int, width: int) -> tuple[Float32[np.ndarray, "s s"], Float32[np.ndarray, "s s"]]:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return rows, columns


def _most_voted(votes: list[UInt8[np.ndarray, "s s"]], classes: np.ndarray) -> UInt8[np.ndarray, "s s"]:
    """The class with most votes, the first of equal ones."""
    best, labels = votes[0], np.full_like(votes[0], classes[0])
    for number, vote in zip(classes[1:], votes[1:], strict=True):
        labels[vote > best] = number
        best = np.maximum(best, vote)
    return labels
