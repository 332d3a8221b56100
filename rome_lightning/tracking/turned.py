"""The orientation of a face: the detector claims upright faces even in upside-down pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from rome_lightning.types.landmarks import LEFT_IRIS, RIGHT_IRIS

AGREEMENT = 0.2
"""Mean distance of landmarks, in iris distances, below which two detections show one face in one pose. Turned
views of a true face differ by 0.02 to 0.06, invented ones by more than 0.9."""


class FoundFace(Protocol):
    """What the detector finds in a view."""

    landmarks: np.ndarray
    """(478, 3), pixels of the view."""


Face = TypeVar("Face", bound=FoundFace)


def quarter_turns(find: Callable[[np.ndarray], Sequence[Face]], picture: UInt8[np.ndarray, "h w 3"]) -> int:
    """Counter-clockwise quarter turns (``np.rot90``) that set the face of a picture upright.

    A face is found at any roll up to 90 degrees to either side, so of four views, each turned further by a
    quarter, three show a true face in the same place. What the detector invents for an upside-down face
    appears in only one view.

    Args:
        find: faces of a view.
        picture: RGB.

    Returns:
        0 to 3; 0 also where no two views agree.
    """
    points = _genuine([face for turns in range(4) for face in _in_view(find, picture, turns)])
    if points is None:
        return 0
    right, left = points[RIGHT_IRIS[0]], points[LEFT_IRIS[0]]
    # y points down: this is the angle by which the face is turned counter-clockwise.
    roll = np.degrees(np.arctan2(right[1] - left[1], left[0] - right[0]))
    return int(-round(roll / 90)) % 4


def stands_upside_down(
    find: Callable[[np.ndarray], Sequence[Face]],
    picture: UInt8[np.ndarray, "h w 3"],
    landmarks: Float[np.ndarray, "478 d"],
) -> bool:
    """Whether the detector saw an upright face in an upside-down one.

    Costs one detection if the picture rotated by half a turn shows no other face.

    Args:
        find: faces of a view.
        picture: RGB, of that face.
        landmarks: pixels of ``picture``.
    """
    half = _in_view(find, picture, 2)
    if all(_distance(points, landmarks) < AGREEMENT for points in half):
        return False
    first, second, last = (_in_view(find, picture, turns) for turns in (0, 1, 3))
    genuine = _genuine([*first, *second, *half, *last])
    return genuine is not None and _distance(genuine, landmarks) > AGREEMENT


def _in_view(
    find: Callable[[np.ndarray], Sequence[Face]], picture: UInt8[np.ndarray, "h w 3"], turns: int
) -> list[Float[np.ndarray, "478 2"]]:
    """Landmarks of the faces that a turned view shows, in pixels of the picture."""
    return [_turned_back(face, picture.shape[:2], turns) for face in find(_turned(picture, turns))]


def _genuine(found: Sequence[Float[np.ndarray, "478 2"]]) -> Float[np.ndarray, "478 2"] | None:
    """The face that most of the four views show, the largest if several do.

    Args:
        found: landmarks in all views, in pixels of the picture.
    """
    votes = [sum(_distance(points, other) < AGREEMENT for other in found) for points in found]
    if max(votes, default=0) < 2:
        return None
    return max(zip(votes, found, strict=True), key=lambda pair: (pair[0], float(np.ptp(pair[1], 0).max())))[1]


def _turned(picture: np.ndarray, turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(picture, turns))


def _turned_back(face: FoundFace, size: tuple[int, ...], turns: int) -> Float[np.ndarray, "478 2"]:
    """Landmarks of a view turned by ``np.rot90`` in the pixels of a picture of that (height, width)."""
    height, width = size
    x, y = face.landmarks[:, 0], face.landmarks[:, 1]
    places = ((x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x))
    return np.stack(places[turns], axis=-1)


def _distance(points: Float[np.ndarray, "478 d"], other: Float[np.ndarray, "478 d"]) -> float:
    """Mean distance of two faces' landmarks in iris distances of the second."""
    unit = np.linalg.norm(other[LEFT_IRIS[0], :2] - other[RIGHT_IRIS[0], :2])
    return float(np.linalg.norm(points[:, :2] - other[:, :2], axis=1).mean() / max(float(unit), 1e-6))
