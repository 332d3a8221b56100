"""From a photograph to video and GLB by the README's five commands, of which the first installs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from tiny_run import need

from rome_lightning.media.video import read_video

COMMANDS = (
    "rome doctor",
    "rome avatar create me.jpg -o me",
    # A few frames: this test is about the commands, not the video.
    "rome avatar animate me --driver talk.mp4 -o me.mp4 --max-frames 6",
    "rome avatar export me --format glb",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_avatar_user(rome, folder: Path, clips: Path) -> None:
    need("face_landmarker", "selfie_multiclass", "modnet")
    Image.fromarray(skimage.data.astronaut()).save(folder / "me.jpg")
    shutil.copy(min(path for path in clips.iterdir() if "cap13" in path.name), folder / "talk.mp4")
    for command in COMMANDS:
        rome(command)
    assert (folder / "me/preview.png").is_file()
    assert len(read_video(folder / "me.mp4")) == 6
    (glb,) = (folder / "me").glob("*.glb")
    assert glb.read_bytes()[:4] == b"glTF"
