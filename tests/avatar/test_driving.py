"""Live driving: one frame is drawn while the next is tracked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rome_lightning.avatar.live import Timing, drive
from rome_lightning.types import HeadParams

PATIENCE_S = 20.0
"""After which a thread that waits for another gives up."""


def frames(count: int) -> Iterator[np.ndarray]:
    return (np.full((4, 4, 3), number, np.uint8) for number in range(count))


class Tracker:
    """A tracker that finds the number of each frame, and nobody in frame 2."""

    def __init__(self) -> None:
        self.started = [threading.Event() for _ in range(6)]
        self.fails_at = -1

    def crop_of(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def step(self, frame: np.ndarray) -> HeadParams | None:
        number = int(frame[0, 0, 0])
        self.started[number].set()
        if number == self.fails_at:
            raise OSError("the camera is gone")
        params = HeadParams.neutral(1, 2, 2)
        params.camera[:, 1] = number
        return None if number == 2 else params


class Avatar:
    """An avatar whose picture is the number of its pose."""

    def __init__(self, tracker: Tracker, count: int) -> None:
        self.source = SimpleNamespace(params=HeadParams.neutral(1, 2, 2))
        self.tracker, self.count, self.drawn = tracker, count, 0

    def draw(self, params: HeadParams, **_: Any) -> Iterator[Any]:
        # The next frame is tracked before this one is drawn.
        following = self.drawn + 1
        if following < self.count:
            assert self.tracker.started[following].wait(PATIENCE_S)
        self.drawn += 1
        yield SimpleNamespace(image=torch.full((1, 3, 4, 4), float(params.camera[0, 1]) / 255))


def run(count: int, tracker: Tracker, timing: Timing) -> Iterator[Any]:
    return drive(Avatar(tracker, count), tracker, frames(count), timing)  # type: ignore[arg-type]


def test_the_next_frame_is_tracked_while_one_is_drawn() -> None:
    timing = Timing()
    shown = list(run(5, Tracker(), timing))
    assert [int(frame.driver[0, 0, 0]) for frame in shown] == [0, 1, 2, 3, 4]
    # Where nobody is found the last pose is held.
    assert [int(frame.image[0, 0, 0]) for frame in shown] == [0, 1, 1, 3, 4]
    assert [frame.lost for frame in shown] == [False, False, True, False, False]
    assert (timing.num_frames, timing.lost) == (5, 1)
    summary = timing.summary()
    own = ("track", "wait", "render", "out")
    for frame in range(5):
        assert all(timing.seconds[stage][frame] >= 0 for stage in (*own, "frame"))
    longest = max(sum(timing.seconds[stage][frame] for stage in own) for frame in range(5))
    assert summary["latency"]["median_ms"] <= 1e3 * longest


def test_no_frame_is_tracked_further_ahead() -> None:
    """Otherwise it would be old by the time it is drawn."""
    tracker = Tracker()
    shown = run(6, tracker, Timing())
    next(shown)
    assert not tracker.started[2].wait(0.3)
    next(shown)
    assert tracker.started[2].wait(PATIENCE_S)
    shown.close()  # type: ignore[attr-defined]
    assert not tracker.started[4].is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("track")]


def test_errors_of_the_driver_arrive_after_the_frames_before() -> None:
    tracker = Tracker()
    tracker.fails_at = 3
    shown = run(6, tracker, Timing())
    assert len([next(shown) for _ in range(3)]) == 3
    with pytest.raises(OSError, match="the camera is gone"):
        next(shown)
