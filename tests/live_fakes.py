"""Drivers and trackers of numbered frames, which a process of its own can import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from rome_lightning.media.camera import TimedFrame
from rome_lightning.tracking.live_frames import Driver
from rome_lightning.types import HeadParams

NOBODY = 2
"""Number of the frame without a face."""


@dataclass(frozen=True)
class Numbered:
    """A source of frames whose every value is their number.

    ``hangs_at`` is the number of a frame that never comes.
    """

    count: int
    every_s: float = 0.0
    hangs_at: int = -1

    def __call__(self) -> Driver:
        offsets = [0.0]

        def frames() -> Generator[TimedFrame, None, None]:
            for number in range(self.count):
                time.sleep(1e6 if number == self.hangs_at else self.every_s)
                offsets[:] = [0.0, float(number)]
                yield 0.04 * number, np.full((4, 4, 3), number, np.uint8)

        return Driver(frames(), 25.0, offsets)


@dataclass
class NumberTracker:
    """Finds the number of each frame as the camera's shift; a job's tracker if partially applied."""

    takes_s: float = 0.0
    fails_at: int = -1
    dies_at: int = -1
    tells_in: str = ""
    """Folder where a file appears for each frame that was begun."""

    def __enter__(self) -> NumberTracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.tells_in:
            open(f"{self.tells_in}/closed", "w").close()

    def calibrate(self, frames: np.ndarray, fps: float) -> None:
        assert len(frames)

    def crop_of(self, frame: np.ndarray) -> np.ndarray:
        return frame[:2, :2]

    def step(self, frame: np.ndarray) -> HeadParams | None:
        number = int(frame[0, 0, 0])
        if self.tells_in:
            open(f"{self.tells_in}/{number}", "w").close()
        time.sleep(self.takes_s)
        if number == self.fails_at:
            raise OSError("the camera is gone")
        if number == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        params = HeadParams.neutral(1, 2, 2)
        params.camera[:, 1] = number
        return None if number == NOBODY else params
