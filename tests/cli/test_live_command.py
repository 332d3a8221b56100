"""A video sent live plays at its own speed."""

import time

import numpy as np
import pytest

from rome_lightning.cli.live import _paced


def test_frames_of_a_video_come_at_their_times() -> None:
    frames, came = [np.full((1, 1, 3), value, np.uint8) for value in range(4)], []
    # Cut from a longer video, at a variable rate.
    times, began = [5.0, 5.05, 5.2, 5.25], time.monotonic()
    for frame in _paced(iter(frames), times):
        came.append((time.monotonic(), int(frame[0, 0, 0])))
    seconds = np.array([moment for moment, _ in came]) - began
    assert [value for _, value in came] == [0, 1, 2, 3]
    assert (seconds >= np.subtract(times, 5.0) - 1e-3).all()


def test_late_frames_are_not_delayed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    paced = _paced(iter([np.zeros((1, 1, 3), np.uint8)] * 3), [0.0, -1.0, 60.0])
    assert len(list(paced)) == 3
    assert slept[:2] == [0.0, 0.0]
    assert slept[2] == pytest.approx(60, abs=1)
