"""Live driving: every tracked frame is drawn, and its times are noted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from live_fakes import Numbered, NumberTracker

from rome_lightning.avatar.live import Timing, drive
from rome_lightning.tracking.live_frames import TrackedFrame, TrackingJob, tracked_frames
from rome_lightning.types import HeadParams


class Avatar:
    """An avatar whose picture is the number of its pose."""

    def __init__(self) -> None:
        self.source = SimpleNamespace(params=HeadParams.neutral(1, 2, 2))

    def draw(self, params: HeadParams, **_: Any) -> Iterator[Any]:
        yield SimpleNamespace(image=torch.full((1, 3, 4, 4), float(params.camera[0, 1]) / 255))


def tracked(count: int) -> Iterator[TrackedFrame]:
    return tracked_frames(TrackingJob(Numbered(count), NumberTracker, calibration=2))


def test_every_frame_is_drawn_and_timed() -> None:
    timing = Timing()
    shown = list(drive(Avatar(), tracked(5), timing))  # type: ignore[arg-type]
    assert [frame.driver.number for frame in shown] == [0, 1, 2, 3, 4]
    # Where nobody is found the last pose is held.
    assert [int(frame.image[0, 0, 0]) for frame in shown if frame.image is not None] == [0, 1, 1, 3, 4]
    assert [int(frame.params.camera[0, 1]) for frame in shown] == [0, 1, 1, 3, 4]
    assert (timing.num_frames, timing.lost, timing.skipped) == (5, 1, 0)
    summary = timing.summary()
    own = ("track", "wait", "render", "out")
    for frame in range(5):
        assert all(timing.seconds[stage][frame] >= 0 for stage in (*own, "frame"))
    longest = max(sum(timing.seconds[stage][frame] for stage in own) for frame in range(5))
    assert summary["latency"]["median_ms"] <= 1e3 * longest


def test_without_an_image_the_motion_passes() -> None:
    shown = list(drive(Avatar(), tracked(2), Timing(), draws=False))  # type: ignore[arg-type]
    assert [frame.image for frame in shown] == [None, None]


def test_frames_that_were_left_out_are_counted() -> None:
    timing = Timing()
    some = [frame for frame in tracked(9) if frame.number in (3, 4, 8)]
    assert len(list(drive(Avatar(), some, timing))) == 3  # type: ignore[arg-type]
    assert timing.skipped == 3
