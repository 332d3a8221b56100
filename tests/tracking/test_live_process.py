"""Tracking in a process of its own gives what tracking here gives, and ends whatever happens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from live_fakes import NOBODY, Numbered, NumberTracker

from rome_lightning.cli.live import TRACKING
from rome_lightning.media.child import Child
from rome_lightning.tracking.live_frames import TrackedFrame, TrackingJob, tracked_frames
from rome_lightning.tracking.live_process import frames_of, start_tracking

PATIENCE_S = 20.0
"""After which what should have happened did not."""


def job(count: int = 6, tracker: NumberTracker | None = None, **changes: object) -> TrackingJob:
    tracker = tracker or NumberTracker()
    made = TrackingJob(Numbered(count), partial(dataclasses.replace, tracker), calibration=3)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(TRACKING, "the tracker") as started:
        yield started


def frames_of_job(child: Child, job: TrackingJob) -> tuple[float, Iterator[TrackedFrame]]:
    start_tracking(child, job)
    return frames_of(child)


def until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def is_gone(child: Child) -> bool:
    """Whether it has ended; the system may still keep its exit code."""
    status = Path(f"/proc/{child.pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def numbers(frames: Iterator[TrackedFrame]) -> list[int]:
    return [frame.number for frame in frames]


def test_frames_are_those_of_one_process(child: Child) -> None:
    wanted = list(tracked_frames(job(with_crops=True)))
    fps, frames = frames_of_job(child, job(with_crops=True))
    found = list(frames)
    assert fps == 25.0
    assert [frame.number for frame in found] == [frame.number for frame in wanted] == [0, 1, 2, 3, 4, 5]
    for one, other in zip(found, wanted, strict=True):
        assert (one.time_s, one.clock_offsets) == (other.time_s, other.clock_offsets)
        assert np.array_equal(one.crop, other.crop)
        assert (one.params is None) == (other.params is None) == (one.number == NOBODY)
        if one.params is not None and other.params is not None:
            fields = [field.name for field in dataclasses.fields(one.params)]
            assert all(torch.equal(getattr(one.params, key), getattr(other.params, key)) for key in fields)
            assert int(one.params.camera[0, 1]) == one.number
        assert min(one.read_s, one.track_s) >= 0
        assert one.ready < time.perf_counter()
    assert until(lambda: is_gone(child))


def test_nobody_needs_the_crops() -> None:
    assert [frame.crop for frame in tracked_frames(job(2))] == [None, None]


def test_no_frame_is_tracked_further_ahead(child: Child, tmp_path: Path) -> None:
    """Otherwise it would be old by the time it is drawn."""
    _, frames = frames_of_job(child, job(8, NumberTracker(tells_in=str(tmp_path))))
    next(frames)
    assert until((tmp_path / "1").exists)
    time.sleep(0.3)
    assert not (tmp_path / "2").exists()
    next(frames)
    assert until((tmp_path / "2").exists)


def test_frames_are_tracked_just_in_time(child: Child) -> None:
    """While one is drawn for 0.3 s the next is tracked at the end, not at the beginning."""
    _, frames = frames_of_job(child, job(8, NumberTracker(takes_s=0.02)))
    ages = []
    for frame in frames:
        ages.append(time.perf_counter() - frame.ready)
        time.sleep(0.3)
    # The first two come before it is known how long the drawing takes.
    assert min(ages[3:]) < 0.1


def test_of_a_camera_the_newest_frame_comes(child: Child) -> None:
    _, frames = frames_of_job(child, job(200, newest_only=True, source=Numbered(200, every_s=0.01)))
    came = []
    for frame in frames:
        came.append(frame.number)
        time.sleep(0.2)
    # Those of the calibration are old. The last one is not lost.
    assert came[0] >= 3
    assert came[-1] == 199
    steps = np.diff(came)
    assert (steps > 0).all()
    # Twenty come while one is drawn; fewer where the machine is busy.
    assert np.median(steps) > 3


def test_errors_come_after_the_frames_before(child: Child) -> None:
    _, frames = frames_of_job(child, job(tracker=NumberTracker(fails_at=3)))
    assert numbers(next(frames) for _ in range(3)) == [0, 1, 2]
    with pytest.raises(OSError, match="the camera is gone") as caught:
        next(frames)
    assert str(caught.value) == "the camera is gone"
    # For `rome --debug`.
    assert "live_fakes.py" in "".join(caught.value.__notes__)
    assert until(lambda: is_gone(child))


def test_errors_before_the_first_frame_arrive(child: Child) -> None:
    with pytest.raises(ValueError, match="the driver has no frames"):
        frames_of_job(child, job(0))


def test_a_killed_process_is_named(child: Child) -> None:
    _, frames = frames_of_job(child, job(tracker=NumberTracker(dies_at=1)))
    assert next(frames).number == 0
    with pytest.raises(RuntimeError, match=r"the tracker ended \(SIGKILL, perhaps out of memory\)"):
        next(frames)


def test_it_ends_with_the_block_and_closes_the_tracker(tmp_path: Path) -> None:
    with Child(TRACKING, "the tracker") as child:
        _, frames = frames_of_job(child, job(100, NumberTracker(tells_in=str(tmp_path))))
        next(frames)
    assert is_gone(child)
    assert (tmp_path / "closed").exists()
    # And so it does before it has anything to do.
    began = time.monotonic()
    with Child(TRACKING, "the tracker") as child:
        pass
    assert is_gone(child)
    # Without waiting until it has started.
    assert time.monotonic() - began < 1.5


def test_a_camera_that_hangs_does_not_keep_it() -> None:
    with Child(TRACKING, "the tracker") as child:
        _, frames = frames_of_job(child, job(9, source=Numbered(9, hangs_at=5), newest_only=True))
        next(frames)
        began = time.monotonic()
    assert is_gone(child)
    # Sooner than it would notice by itself.
    assert time.monotonic() - began < 4.5


def test_frames_of_a_video_come_at_their_times() -> None:
    """A video that is sent plays at its own speed."""
    began, came = time.perf_counter(), []
    for frame in tracked_frames(job(5, paced=True)):
        came.append((time.perf_counter() - began, frame.time_s))
        # Time for reading does not include the wait.
        assert frame.read_s < 0.03
    seconds, times = np.array(came).T
    assert len(times) == 5
    assert (np.diff(times) > 0.03).all()
    assert (seconds >= times - 1e-3).all()


def test_late_frames_are_not_delayed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert len(list(tracked_frames(job(3, paced=True, source=Numbered(3, every_s=-1.0))))) == 3
    paces = [seconds for seconds in slept if seconds not in (-1.0, 0.0)]
    assert paces[0] <= 0.04
