"""Photographs that are accepted with a warning, rotated or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rome_lightning.head import load_head
from rome_lightning.tracking import FaceDetector, Matter, Segmenter, Tracker, photos, track_photos
from rome_lightning.types import Frames

SIZE = 160


@pytest.fixture(scope="module")
def tracker(face_model: Path, region_model: Path, matte_model: Path) -> Tracker:
    return Tracker(
        load_head("open"),
        image_size=SIZE,
        detector=FaceDetector(face_model),
        segmenter=Segmenter(region_model),
        matter=Matter(matte_model),
    )


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray) -> np.ndarray:
    return astronaut[:400, 20:420]


def tracked(tracker: Tracker, photo: np.ndarray, face: int | None = None) -> tuple[Frames, str]:
    said: list[str] = []
    return track_photos(tracker, [photo], ["me.jpg"], face, said.append), "\n".join(said)


def test_an_ordinary_photo_is_taken_without_a_word(tracker: Tracker, photo: np.ndarray) -> None:
    assert tracked(tracker, photo)[1] == ""


def test_sunglasses_are_taken_with_a_warning(tracker: Tracker, photo: np.ndarray) -> None:
    points = tracker.detector.detect(photo[None]).landmarks[0]
    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture)
    right, left = points[468].tolist(), points[473].tolist()
    draw.line([tuple(right), tuple(left)], fill=(10, 10, 10), width=4)
    for x, y in (right, left):
        draw.ellipse((x - 20, y - 14, x + 20, y + 16), fill=(15, 15, 20))
    frames, said = tracked(tracker, np.asarray(picture))
    assert len(frames) == 1
    assert "me.jpg: glasses or another object in front of the eyes" in said
    assert "hand or object" not in said


@pytest.mark.parametrize("turns", [1, 2])
def test_a_turned_photo_is_set_upright(tracker: Tracker, photo: np.ndarray, turns: int) -> None:
    upright, _ = tracked(tracker, photo)
    frames, said = tracked(tracker, np.ascontiguousarray(np.rot90(photo, turns)))
    assert f"me.jpg was rotated by {90 * (4 - turns)} degrees counter-clockwise" in said
    torch.testing.assert_close(frames.landmarks, upright.landmarks, atol=0.01, rtol=0)


def test_of_two_people_the_largest_or_the_named_one(tracker: Tracker, photo: np.ndarray) -> None:
    other = np.asarray(Image.fromarray(photo[20:240, 100:320]).resize((180, 180)))
    pair = np.concatenate([photo, np.pad(other, ((110, 110), (0, 0), (0, 0)), mode="edge")], axis=1)
    largest, said = tracked(tracker, pair)
    assert "me.jpg shows 2 people; the largest face is used, choose another with face=N" in said
    first, said = tracked(tracker, pair, face=1)
    assert "people" not in said
    assert torch.equal(first.landmarks, largest.landmarks)
    second, _ = tracked(tracker, pair, face=2)
    assert float((second.landmarks - first.landmarks).abs().max()) > 1


def test_a_face_at_the_border_is_taken(tracker: Tracker, photo: np.ndarray) -> None:
    points = tracker.detector.detect(photo[None]).landmarks[0]
    # The border cuts the cheek.
    left = int(points[:, 0].min() + 0.12 * (points[:, 0].max() - points[:, 0].min()))
    frames, said = tracked(tracker, np.ascontiguousarray(photo[:, left:]))
    assert "me.jpg: the face extends beyond the photo" in said
    assert bool(torch.isfinite(frames.params.camera).all())


def test_a_photo_without_a_face_is_refused(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match=r"me\.jpg: no face found in the photo"):
        tracked(tracker, np.full((200, 200, 3), 128, np.uint8))


def test_warnings_are_pythons_by_default() -> None:
    with pytest.warns(UserWarning, match="glasses"):
        photos._python_warning("glasses")
