"""Face detection on a photograph and on images made from it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, FaceDetector, open_task

# Indices of MediaPipe's mesh: centres of the irises, corners of the mouth, tip of the nose, chin.
RIGHT_IRIS, LEFT_IRIS, RIGHT_LIP, LEFT_LIP, NOSE, CHIN = 468, 473, 61, 291, 1, 152


@pytest.fixture(scope="module")
def detector(face_model: Path) -> FaceDetector:
    return FaceDetector(face_model)


def test_landmarks_of_a_photograph(detector: FaceDetector, astronaut: np.ndarray) -> None:
    found = detector.detect(astronaut[None])
    assert found.found.tolist() == [True]
    assert found.num_faces.tolist() == [1]
    points = found.landmarks[0]
    # Read off the enlarged photograph by eye, pixels.
    places = {
        RIGHT_IRIS: (203.3, 100.1),
        LEFT_IRIS: (246.6, 102.6),
        RIGHT_LIP: (203.0, 140.0),
        LEFT_LIP: (243.5, 141.0),
    }
    for index, place in places.items():
        assert torch.allclose(points[index], torch.tensor(place), atol=2.5), index
    # The nose points to the camera, and the eyes are at equal depth in a face from the front.
    assert found.depth[0, NOSE] < found.depth[0, CHIN] < found.depth[0, 234]
    assert found.blendshapes.shape == (1, len(BLENDSHAPE_NAMES))
    scores = dict(zip(BLENDSHAPE_NAMES, found.blendshapes[0].tolist(), strict=True))
    # She is smiling with open eyes.
    assert scores["mouthSmileLeft"] > 0.5
    assert scores["eyeBlinkLeft"] < 0.3
    assert found.pose[0, 2, 2] > 0.9
    assert found.pose[0, 2, 3] < 0


def test_half_a_pixel(detector: FaceDetector, astronaut: np.ndarray) -> None:
    """Pixel centres are integers: mirroring x to (width - 1) - x maps landmarks onto each other."""
    plain = detector.detect(astronaut[None]).landmarks[0]
    mirrored = detector.detect(np.ascontiguousarray(astronaut[None, :, ::-1])).landmarks[0]
    expected = (astronaut.shape[1] - 1) - plain[LEFT_IRIS, 0]
    # The network is not exactly symmetric; the mean of both eyes is more stable than one.
    middle = (plain[[LEFT_IRIS, RIGHT_IRIS], 0].mean() + mirrored[[LEFT_IRIS, RIGHT_IRIS], 0].mean()) / 2
    assert middle == pytest.approx((astronaut.shape[1] - 1) / 2, abs=0.5)
    assert mirrored[RIGHT_IRIS, 0] == pytest.approx(float(expected), abs=2)


def test_a_shifted_frame_shifts_the_landmarks(detector: FaceDetector, astronaut: np.ndarray) -> None:
    window = np.stack([astronaut[0:400, 50:450], astronaut[16:416, 66:466]])
    found = detector.detect(window)
    move = (found.landmarks[0] - found.landmarks[1]).median(dim=0).values
    assert torch.allclose(move, torch.tensor([16.0, 16.0]), atol=1.0)


def test_nothing_is_invented_without_a_face(detector: FaceDetector) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 240, 320, 3), dtype=np.uint8)
    found = detector.detect(frames)
    assert not found.found.any()
    assert found.num_faces.tolist() == [0, 0]
    assert float(found.landmarks.abs().max()) == 0
    assert float(found.pose.abs().max()) == 0


def test_small_and_dark_faces_are_looked_for(detector: FaceDetector, astronaut: np.ndarray) -> None:
    wide = np.full((720, 1280, 3), 90, np.uint8)
    small = np.asarray(Image.fromarray(astronaut).resize((300, 300), Image.Resampling.BICUBIC))
    wide[400:700, 900:1200] = small
    dark = (astronaut * 0.06).astype(np.uint8)
    in_wide = detector.detect(wide[None])
    assert in_wide.found.tolist() == [True]
    centre = in_wide.landmarks[0, NOSE]
    assert torch.allclose(centre, torch.tensor([900 + 223 * 0.586, 400 + 130 * 0.586]), atol=6)
    assert detector.detect(dark[None]).found.tolist() == [True]


def test_two_people_are_counted(detector: FaceDetector, astronaut: np.ndarray) -> None:
    face = astronaut[20:240, 120:340]
    assert detector.detect(np.concatenate([face, face], axis=1)[None]).num_faces.tolist() == [2]
    bystander = astronaut.copy()
    bystander[300:360, 20:80] = np.asarray(Image.fromarray(face).resize((60, 60)))
    assert detector.detect(bystander[None]).num_faces.tolist() == [1]


def test_two_small_people_are_counted_in_every_frame(detector: FaceDetector, astronaut: np.ndarray) -> None:
    """Only some frames are searched in tiles, and only there is the second, small face detected."""
    two = np.concatenate([astronaut, astronaut], axis=1)
    assert detector.detect(np.stack([two] * 12)).num_faces.tolist() == [2] * 12


def test_the_main_face_is_followed(detector: FaceDetector, astronaut: np.ndarray) -> None:
    """A second, slightly larger face that enters does not take over."""
    face = astronaut[20:240, 120:340]
    alone = np.concatenate([face, np.full_like(face, 100)], axis=1)
    larger = np.asarray(Image.fromarray(face[20:200, 20:200]).resize((220, 220)))
    both = np.concatenate([face, larger], axis=1)
    found = detector.detect(np.stack([alone, both]))
    assert found.landmarks[1, NOSE, 0] == pytest.approx(float(found.landmarks[0, NOSE, 0]), abs=4)


def test_it_is_quiet(face_model: Path) -> None:
    code = (
        "import skimage.data; from pathlib import Path;"
        "from rome_lightning.tracking.detector import FaceDetector;"
        f"assert FaceDetector(Path({str(face_model)!r})).detect(skimage.data.astronaut()[None]).found.all()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""


class NoisyTask:
    """Stands in for a MediaPipe task, which writes to file descriptor 2 from C++."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.task = SimpleNamespace(close=lambda: os.write(2, b"closed;"))
        self.seconds = seconds
        os.write(2, b"started;")

    def __call__(self, image: np.ndarray) -> int:
        time.sleep(self.seconds)
        os.write(2, b"ran;")
        return int(image[0])


def test_a_network_runs_once_per_image_and_only_its_start_is_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_task(NoisyTask) as call:
        assert [call(np.array([number])) for number in range(3)] == [0, 1, 2]
    assert capfd.readouterr().err == "ran;ran;closed;"


def test_two_threads_that_start_at_once_are_heard_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    def use(seconds: float) -> None:
        with open_task(lambda: NoisyTask(seconds)) as call:
            call(np.zeros(1))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(use, (0.1, 0.2)))
    capfd.readouterr()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
