"""An avatar driven in real time: one frame in, one frame out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import UInt8

from rome_lightning.avatar.avatar import Avatar
from rome_lightning.media.image import to_uint8
from rome_lightning.tracking.live import LiveTracker
from rome_lightning.types import HeadParams

STAGES = ("read", "track", "wait", "render", "out")
"""Stages of a frame, in order. It waits until the one before is out; ``out`` is what the caller does."""


@dataclass(frozen=True)
class LiveFrame:
    """One frame of the driver and its result."""

    image: UInt8[np.ndarray, "h w 3"] | None
    """The avatar's image, if it is rendered."""
    driver: UInt8[np.ndarray, "h w 3"]
    """The driver's frame, cropped."""
    params: HeadParams
    """Pose and expression (batch of one)."""
    lost: bool
    """Whether no face was found: the avatar then holds its last pose."""


@dataclass(frozen=True)
class _Tracked:
    """A frame of the driver with its pose."""

    crop: UInt8[np.ndarray, "h w 3"]
    found: HeadParams | None
    read_s: float
    track_s: float
    ready: float
    """Time when it could be drawn, seconds."""


@dataclass
class Timing:
    """Seconds per frame and stage."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    lost: int = 0
    """Frames without a face."""

    def add(self, stage: str, seconds: float) -> None:
        """Note how long a stage took for one frame."""
        self.seconds.setdefault(stage, []).append(seconds)

    @property
    def num_frames(self) -> int:
        """Frames that passed every stage."""
        return min((len(values) for values in self.seconds.values()), default=0)

    def summary(self) -> dict[str, dict[str, float]]:
        """Median and 95th percentile in milliseconds, and frames per second, for each stage and in all.

        ``latency`` is the time from a frame's arrival (after ``read``) until it is out; ``frame``, that from
        one frame until the next, is shorter because the next is tracked meanwhile.
        """
        stages = {stage: np.asarray(values[: self.num_frames]) for stage, values in self.seconds.items()}
        own = [stages[stage] for stage in STAGES[1:] if stage in stages]
        stages["latency"] = np.sum(own, axis=0) if own else np.zeros(0)
        return {
            stage: {
                "median_ms": 1e3 * float(np.median(values)),
                "p95_ms": 1e3 * float(np.percentile(values, 95)),
                "fps": 1 / max(float(values.mean()), 1e-9),
            }
            for stage, values in stages.items()
            if len(values)
        }


def drive(
    avatar: Avatar,
    tracker: LiveTracker,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    timing: Timing,
    by_network: bool = False,
    draws: bool = True,
    corrections: bool = True,
    size: int | None = None,
) -> Generator[LiveFrame]:
    """Render the avatar for each frame as it arrives, while another thread reads and tracks the next one.

    Args:
        avatar: the person to draw.
        tracker: calibrated.
        frames: of the driver, RGB.
        timing: filled; the time that the caller keeps a frame is the stage ``out``.
        by_network: use the model's own driver network instead of detector and fit.
        draws: whether to render images, or only track the motion.
        corrections: as for ``Avatar.draw``.
        size: side of the images, pixels; that of the photograph if not given.
    """
    iterator = iter(frames)

    def next_tracked() -> _Tracked | None:
        start = time.perf_counter()
        frame = next(iterator, None)
        if frame is None:
            return None
        arrived = time.perf_counter()
        crop = tracker.crop_of(frame)
        found = _estimate(avatar, crop) if by_network else tracker.step(frame)
        ready = time.perf_counter()
        return _Tracked(crop, found, arrived - start, ready - arrived, ready)

    params, last_out = avatar.source.params, time.perf_counter()
    image_size = None if size is None else (size, size)
    with ThreadPoolExecutor(1, thread_name_prefix="track") as other:
        upcoming = other.submit(next_tracked)
        while (tracked := upcoming.result()) is not None:
            upcoming = other.submit(next_tracked)
            start = time.perf_counter()
            params = params if tracked.found is None else tracked.found
            timing.lost += tracked.found is None
            image = None
            if draws:
                (rendered,) = avatar.draw(params, image_size=image_size, corrections=corrections)
                image = to_uint8(rendered.image)[0]
            drawn = time.perf_counter()
            yield LiveFrame(image, tracked.crop, params, tracked.found is None)
            out = time.perf_counter()
            seconds = (tracked.read_s, tracked.track_s, start - tracked.ready, drawn - start, out - drawn)
            for stage, value in zip((*STAGES, "frame"), (*seconds, out - last_out), strict=True):
                timing.add(stage, value)
            last_out = out


@torch.no_grad()
def _estimate(avatar: Avatar, crop: UInt8[np.ndarray, "s s 3"]) -> HeadParams:
    image = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    return avatar.model.estimate_driver(image)
