"""A driver of any length needs memory for its landmarks, not for its frames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
from tiny_run import need

from rome_lightning.avatar.driver import read_driver
from rome_lightning.media.video import write_video
from rome_lightning.tracking.foreign import DecaEncoder

# All frames reuse the first one's face, so that the test measures memory without the detector's time.
MEASURE = """
import resource, sys
from pathlib import Path
from rome_lightning.avatar.driver import track_video
from rome_lightning.head import load_head
from rome_lightning.tracking.detector import FaceDetector

create, known = FaceDetector.create, []

def create_once(self, face=0):
    network = create(self, face)
    def find(frame):
        if frame.shape != (720, 1280, 3):
            return network(frame)
        known.extend([] if known else network(frame))
        return list(known)
    find.task = network.task
    return find

FaceDetector.create = create_once
driver = track_video(Path(sys.argv[1]), load_head("open"), 512)
assert not driver.lost.any()
shown = driver.lost.logical_not().nonzero().flatten()
assert sum(crop.shape == (512, 512, 3) for crop in driver.crops(shown, 512)) == len(driver)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    need("face_landmarker")
    photo = np.pad(skimage.data.astronaut(), ((104, 104), (384, 384), (0, 0)), mode="edge")
    peaks = []
    for seconds in (2, 12):
        path = write_video(tmp_path / f"{seconds}.mp4", (photo for _ in range(25 * seconds)), 25.0)
        command = [sys.executable, "-c", MEASURE, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(result.stdout))
    # 250 more frames of 720p are 690 MB as RGB, their landmarks and poses less than 20.
    assert peaks[1] - peaks[0] < 80


def test_recorded_motion_has_no_pictures_to_encode(tmp_path: Path) -> None:
    avatar = SimpleNamespace(image_size=(64, 64))
    with pytest.raises(ValueError, match="is recorded motion, which has no pictures for an encoder"):
        read_driver(tmp_path / "motion.csv", avatar, encoder=DecaEncoder())  # type: ignore[arg-type]
