"""Pages of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rome_lightning.media.video import write_video
from rome_lightning.report.page import Media, Section, write_report


def test_a_video_shows_its_first_frame_until_it_is_played(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), value, np.uint8) for value in (200, 20)]
    write_video(tmp_path / "talk.mp4", iter(frames), 25.0)
    write_report(
        tmp_path / "page.html", "run-1", "", [Section("Videos", videos=[Media("talk.mp4", "a")])], {}
    )
    page = (tmp_path / "page.html").read_text()
    assert "<title>run-1</title>" in page
    assert 'poster="talk.png"' in page
    # H.264 keeps a grey area within a few of 255 steps.
    assert abs(int(np.asarray(Image.open(tmp_path / "talk.png")).mean()) - 200) < 10
