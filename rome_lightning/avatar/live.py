"""An avatar driven in real time: one frame in, one frame out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from rome_lightning.avatar.avatar import Avatar
from rome_lightning.media.image import to_uint8
from rome_lightning.tracking.live import LiveTracker
from rome_lightning.tracking.live_frames import TrackedFrame
from rome_lightning.types import HeadParams

STAGES = ("read", "track", "wait", "render", "out")
"""Stages of a frame, in order. It waits until the one before is out; ``out`` is what the caller does."""


@dataclass(frozen=True)
class LiveFrame:
    """One frame of the driver and its result."""

    image: UInt8[np.ndarray, "h w 3"] | None
    """The avatar's image, if it is rendered."""
    driver: TrackedFrame
    """The driver's frame."""
    params: HeadParams
    """Pose and expression (batch of one): the last ones where no face was found."""


@dataclass
class Timing:
    """Seconds per frame and stage."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    lost: int = 0
    """Frames without a face."""
    skipped: int = 0
    """Frames that were never drawn because a newer one was there."""

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
    tracked: Iterable[TrackedFrame],
    timing: Timing,
    draws: bool = True,
    corrections: bool = True,
    size: int | None = None,
) -> Generator[LiveFrame]:
    """Render the avatar for each frame of the driver as it comes.

    Args:
        avatar: the person to draw.
        tracked: the driver's frames, see ``start_tracking`` and ``tracked_frames``.
        timing: filled; the time that the caller keeps a frame is the stage ``out``.
        draws: whether to render images, or only pass the motion on.
        corrections: as for ``Avatar.draw``.
        size: side of the images, pixels; that of the photograph if not given.
    """
    params, last_out, last_number = avatar.source.params, time.perf_counter(), None
    for frame in tracked:
        start = time.perf_counter()
        params = params if frame.params is None else frame.params
        timing.lost += frame.params is None
        timing.skipped += 0 if last_number is None else frame.number - last_number - 1
        last_number = frame.number
        image = _picture(avatar, params, corrections, size) if draws else None
        drawn = time.perf_counter()
        yield LiveFrame(image, frame, params)
        out = time.perf_counter()
        seconds = (frame.read_s, frame.track_s, start - frame.ready, drawn - start, out - drawn)
        for stage, value in zip((*STAGES, "frame"), (*seconds, out - last_out), strict=True):
            timing.add(stage, value)
        last_out = out


def warm_up(avatar: Avatar, corrections: bool = True, size: int | None = None) -> None:
    """Draw a picture for nobody: the first one takes ten times as long. Arguments as for ``drive``."""
    _picture(avatar, avatar.source.params, corrections, size)


def _picture(
    avatar: Avatar, params: HeadParams, corrections: bool, size: int | None
) -> UInt8[np.ndarray, "h w 3"]:
    # Three per cent less time than without gradients alone.
    with torch.inference_mode():
        image_size = None if size is None else (size, size)
        (rendered,) = avatar.draw(params, image_size=image_size, corrections=corrections)
        return to_uint8(rendered.image)[0]


class NetworkTracker(LiveTracker):
    """A live tracker that lets the model's own network estimate the parameters; only the crop is calibrated.

    Args:
        path: of an avatar whose model has a driver network.
        image_size: side of the crops in pixels.
    """

    def __init__(self, path: Path, image_size: int) -> None:
        self._network = Avatar.load(path).model
        super().__init__(self._network.head, image_size)

    @torch.no_grad()
    def step(self, frame: UInt8[np.ndarray, "h w 3"]) -> HeadParams | None:
        """The network's estimate, whatever the frame shows."""
        image = torch.from_numpy(self.crop_of(frame)).permute(2, 0, 1)[None].float() / 255
        return self._network.estimate_driver(image)
