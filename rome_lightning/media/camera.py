"""Cameras of this machine: their frames with times of arrival, and recordings of them."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
from jaxtyping import UInt8

from rome_lightning.media.video import write_video

DEFAULT_FPS = 25.0
"""Of cameras that do not tell theirs."""
_QUALITY = 12
"""Constant rate factor of recordings, which a tracker reads."""

TimedFrame = tuple[float, UInt8[np.ndarray, "h w 3"]]
"""Seconds of a clock that never goes back, and RGB."""


def parse_camera(text: str) -> int | str | None:
    """The camera that a text names: the N of ``camera:N``, a path like ``/dev/video0``, or none.

    Raises:
        ValueError: what follows ``camera:`` is no number.
    """
    if text.startswith("camera:"):
        number = text.removeprefix("camera:")
        if not number.isdecimal():
            raise ValueError(f"a camera is camera:N with its number from 0, got {text}")
        return int(number)
    return text if re.fullmatch(r"/dev/video\d+", text) else None


def open_camera(camera: int | str) -> tuple[Generator[TimedFrame, None, None], float]:
    """Frames of a camera, always the newest, until it ends; and its frames per second.

    Args:
        camera: its number from 0, or the path of its device.

    Raises:
        FileNotFoundError: there is no such camera, or this user may not read it.
    """
    unreadable = f"cannot read camera {camera}; is it connected, and does this user have access?"
    if isinstance(camera, str) and not Path(camera).exists():
        raise FileNotFoundError(unreadable)
    # It would print a page about every way in which it cannot open a camera.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        opened = cv2.VideoCapture(camera)
    finally:
        cv2.utils.logging.setLogLevel(level)
    opened.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if not opened.isOpened():
        raise FileNotFoundError(unreadable)

    def frames() -> Generator[TimedFrame, None, None]:
        try:
            while True:
                good, frame = opened.read()
                if not good:
                    return
                yield time.monotonic(), np.ascontiguousarray(frame[..., ::-1])
        finally:
            opened.release()

    return frames(), opened.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS


def record_camera(
    camera: int | str,
    path: Path,
    seconds: float | None = None,
    max_frames: int | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """Record a camera to a video, each frame at the time at which it arrived.

    Args:
        camera: see ``open_camera``.
        path: video to write.
        seconds: end after this time.
        max_frames: end after so many frames.
        is_stopped: asked after each frame whether to end.

    Raises:
        FileNotFoundError: there is no such camera, or this user may not read it.
        ValueError: it gives no picture.
    """
    timed, fps = open_camera(camera)
    first = next(timed, None)
    if first is None:
        raise ValueError(f"camera {camera} gives no picture; close other programs that use it")
    times: list[float] = []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for arrival, frame in chain([first], timed):
            times.append(arrival - first[0])
            if seconds is not None and times[-1] >= seconds:
                return
            yield frame
            if is_stopped() or len(times) == max_frames:
                return

    try:
        return write_video(path, frames(), fps, _QUALITY, timestamps=growing(times))
    finally:
        timed.close()


def growing(items: list[float]) -> Iterator[float]:
    """Items of a list that still grows: each exists when it is asked for."""
    index = 0
    while True:
        yield items[index]
        index += 1


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end a recording instead of the program; a second one ends the program.

    Yields:
        Whether Ctrl-C has been pressed.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
