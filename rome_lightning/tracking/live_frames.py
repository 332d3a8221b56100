"""Frames of a driver, tracked one by one as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from rome_lightning.media.camera import TimedFrame, open_camera
from rome_lightning.media.video import probe, stream_video
from rome_lightning.tracking.live import LiveTracker
from rome_lightning.types import HeadParams

CALIBRATION_FRAMES = 15
"""Frames that calibrate the driver's position and shape."""
REMEMBERED = 8
"""Frames whose times tell how long the next one will take."""


@dataclass(frozen=True)
class Driver:
    """An opened driver."""

    frames: Generator[TimedFrame, None, None]
    fps: float
    clock_offsets: list[float]
    """Of a video, filled as the frames come, see ``Video.clock_offsets``."""


def open_driver(source: Path | int) -> Driver:
    """Open a video by its path, or a camera by its number.

    Raises:
        FileNotFoundError: there is no such file or camera.
        ValueError: not a video.
    """
    if isinstance(source, int):
        frames, fps = open_camera(source)
        return Driver(frames, fps, [])
    offsets: list[float] = []
    return Driver(stream_video(source, offsets), probe(source).fps, offsets)


@dataclass(frozen=True)
class TrackingJob:
    """What to track, and how; picklable."""

    source: Callable[[], Driver]
    """Opens the driver."""
    tracker: Callable[[], AbstractContextManager[LiveTracker]]
    """Builds the tracker."""
    calibration: int = CALIBRATION_FRAMES
    """Number of frames that calibrate it. Of a camera they are old by then and do not appear again."""
    newest_only: bool = False
    """For cameras: each frame is tracked when it arrives, and forgotten when the next one is tracked before
    it was asked for. Otherwise every frame comes, tracked so late that it need not wait for long."""
    paced: bool = False
    """Whether frames come at their times, as from a camera, and not as fast as possible."""
    with_crops: bool = False
    """Whether ``TrackedFrame.crop`` is needed."""


@dataclass(frozen=True)
class TrackedFrame:
    """A frame of the driver with its pose."""

    number: int
    """Position among the driver's frames."""
    params: HeadParams | None
    """Pose and expression (batch of one); ``None`` where no face was found."""
    crop: UInt8[np.ndarray, "s s 3"] | None
    """The part that the parameters refer to."""
    time_s: float
    """Of the driver's clock."""
    clock_offsets: tuple[float, ...]
    """See ``Driver``, up to this frame."""
    read_s: float
    """Time to read it, after which it has arrived."""
    track_s: float
    """Time to track it."""
    ready: float
    """When it could be drawn, on the clock ``time.perf_counter``, which all processes share."""


def tracked_frames(
    job: TrackingJob,
    on_start: Callable[[float], None] = lambda fps: None,
    rest: Callable[[float], None] = lambda lead_s: None,
) -> Generator[TrackedFrame, None, None]:
    """Open the driver, calibrate, and track one frame after another.

    Args:
        job: what to do.
        on_start: is given the driver's frames per second once the tracker is calibrated.
        rest: called before each frame, unless only the newest are wanted, with the seconds that it will
            take to read and track; may wait.

    Raises:
        ValueError: the driver has no frames, or as ``LiveTracker.calibrate``.
    """
    driver = job.source()
    with closing(driver.frames):
        frames = enumerate(driver.frames)
        first = list(islice(frames, job.calibration))
        if not first:
            raise ValueError("the driver has no frames")
        with job.tracker() as tracker:
            tracker.calibrate(np.stack([frame for _, (_, frame) in first]), driver.fps)
            on_start(driver.fps)
            remaining = frames if job.newest_only else chain(first, frames)
            del first
            yield from _tracked(job, driver, tracker, remaining, rest)


def quartile(seconds: Sequence[float], number: int) -> float:
    """The first or third quartile of times, 0 without any."""
    return sorted(seconds)[(len(seconds) - 1) * number // 4] if seconds else 0.0


def _tracked(
    job: TrackingJob,
    driver: Driver,
    tracker: LiveTracker,
    frames: Iterator[tuple[int, TimedFrame]],
    rest: Callable[[float], None],
) -> Iterator[TrackedFrame]:
    """The loop of ``tracked_frames``."""
    began: float | None = None
    spans: deque[float] = deque(maxlen=REMEMBERED)
    while True:
        if not job.newest_only:
            rest(quartile(spans, 3))
        start = time.perf_counter()
        numbered = next(frames, None)
        if numbered is None:
            return
        number, (time_s, frame) = numbered
        read_s = time.perf_counter() - start
        if job.paced:
            began = time.perf_counter() - time_s if began is None else began
            time.sleep(max(0.0, began + time_s - time.perf_counter()))
        arrived = time.perf_counter()
        # Less time than with gradients, which nobody needs.
        with torch.inference_mode():
            params = tracker.step(frame)
        crop = tracker.crop_of(frame) if job.with_crops else None
        ready = time.perf_counter()
        spans.append(read_s + ready - arrived)
        offsets = tuple(driver.clock_offsets)
        yield TrackedFrame(number, params, crop, time_s, offsets, read_s, ready - arrived, ready)
