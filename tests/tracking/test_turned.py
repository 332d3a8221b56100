"""The orientation of a face, on the astronaut and with synthetic detectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rome_lightning.tracking import FaceDetector
from rome_lightning.tracking.turned import quarter_turns, stands_upside_down


@dataclass
class MadeUpFace:
    landmarks: np.ndarray


def made_up_face(corner: float) -> MadeUpFace:
    """Irises 20 pixels apart, the subject's right one at the corner."""
    points = np.random.default_rng(0).random((478, 3)) * 30 + corner
    points[468, :2] = corner, corner
    points[473, :2] = corner + 20, corner
    return MadeUpFace(points)


def test_a_face_that_one_view_alone_shows_is_no_evidence() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[0, 0] = 1

    def only_as_it_is(view: np.ndarray) -> list[MadeUpFace]:
        return [made_up_face(30)] if view[0, 0, 0] else []

    assert quarter_turns(only_as_it_is, picture) == 0
    # There is no evidence against it either.
    assert not stands_upside_down(only_as_it_is, picture, made_up_face(30).landmarks)


def test_each_view_is_searched_once() -> None:
    """The half turn, which decides whether the others are needed, counts among them."""
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[0, 0] = 1
    views: list[bytes] = []

    def only_upside_down(view: np.ndarray) -> list[MadeUpFace]:
        views.append(view.tobytes())
        return [made_up_face(30)] if view[-1, -1, 0] else []

    stands_upside_down(only_upside_down, picture, made_up_face(30).landmarks)
    assert len(views) == len(set(views)) == 4


@pytest.fixture(scope="module")
def detector(face_model: Path) -> FaceDetector:
    return FaceDetector(face_model)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_photo_is_turned_back(detector: FaceDetector, astronaut: np.ndarray, turns: int) -> None:
    turned = np.ascontiguousarray(np.rot90(astronaut[:300, 80:380], turns))
    assert (turns + detector.quarter_turns(turned)) % 4 == 0


def test_landmarks_of_a_face_on_its_head_are_not_believed(
    detector: FaceDetector, astronaut: np.ndarray
) -> None:
    """Either no face is found, or it is marked, or it is within 3 pixels of the rotated truth."""
    photo = astronaut[:300, 80:380]
    truth = detector.detect(photo[None]).landmarks[0].numpy()
    seen = 0
    for side in range(0, 60, 20):
        part = np.ascontiguousarray(photo[:, side:][::-1, ::-1])
        found = detector.detect(part[None])
        if not bool(found.found[0]):
            continue
        seen += 1
        wanted = np.array([part.shape[1] - 1 + side, part.shape[0] - 1]) - truth
        error = np.linalg.norm(found.landmarks[0].numpy() - wanted, axis=1).mean()
        assert error < 3 or bool(detector.upside_down(part[None], found)[0])
    assert seen
    upright = detector.detect(photo[None])
    assert not bool(detector.upside_down(photo[None], upright)[0])


def test_faces_are_numbered_from_the_left(detector: FaceDetector, astronaut: np.ndarray) -> None:
    face = astronaut[20:240, 120:340]
    smaller = np.pad(face[::2, ::2], ((55, 55), (55, 55), (0, 0)), mode="edge")
    pair = np.concatenate([smaller, face], axis=1)[None]
    centres = [float(detector.detect(pair, face=number).landmarks[0, :, 0].mean()) for number in (0, 1, 2)]
    assert centres[1] < 220 < centres[2] == centres[0]
    with pytest.raises(ValueError, match=r"face 3, counted from the left, does not exist: 2 were found"):
        detector.detect(pair, face=3)
