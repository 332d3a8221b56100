"""From a photograph to GLB and video in five commands after ``pip install``."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from tiny_run import need

from rome_lightning.cli.demo import NEEDED
from rome_lightning.media.video import read_video

COMMANDS = (
    # A model of eight steps: this walk is about the way, not about the picture.
    "rome demo --steps 8",
    "rome avatar create photo.png -o me",
    "rome avatar animate me --driver {driver} -o me.mp4 --max-frames 6",
    "rome avatar export me --format glb",
    "rome avatar export me --format obj",
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_avatar_user(rome, folder: Path, clips: Path) -> None:
    need(*NEEDED)
    Image.fromarray(skimage.data.astronaut()).save(folder / "photo.png")
    driver = min(path for path in clips.iterdir() if "cap13" in path.name)
    for command in COMMANDS:
        rome(command.format(driver=driver))
    assert (folder / "runs/demo/report.html").is_file()
    assert (folder / "me/preview.png").is_file()
    assert len(read_video(folder / "me.mp4")) == 6
    (glb,) = (folder / "me").glob("*.glb")
    assert glb.read_bytes()[:4] == b"glTF"
