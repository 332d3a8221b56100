"""Frames of a video without keeping them: decoded when they are asked for, as often as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float64, UInt8

from rome_lightning.media.container import (
    Clock,
    average_fps,
    open_container,
    picture_stream,
    rate_of,
    shown_frames,
)
from rome_lightning.media.frames import upright_rgb


@runtime_checkable
class FrameSequence(Protocol):
    """RGB frames (h, w, 3) of one size, from 0 to 255: an array of them, or a ``FrameReader``."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """One frame, or for a slice a sequence of the same kind."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """The frames in order."""
        ...


@dataclass(frozen=True)
class Selection:
    """Which frames of a video are wanted, and how large; see ``read_video``."""

    max_frames: int | None = None
    fps: float | None = None
    start_s: float = 0.0
    max_side: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_frames", "fps", "max_side", "max_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class Decoded:
    """A wanted frame, before it becomes a picture."""

    number: int
    """Position in the file, from 0."""
    time_s: float
    """Since the first frame of the file."""
    frame: VideoFrame
    stream: VideoStream

    def rgb(self, path: Path, max_side: int | None) -> UInt8[np.ndarray, "h w 3"]:
        """The upright picture; errors name the file."""
        try:
            return upright_rgb(self.frame, self.stream.sample_aspect_ratio, max_side)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Timing:
    """When the wanted frames of a video are shown."""

    times_s: Float64[np.ndarray, " n"]
    """Since the first frame of the file."""
    fps: float
    """Mean rate of these frames."""
    clock_offsets: tuple[float, ...]
    """Seconds to add to the file's own time stamps, for each stretch between restarts of its clock."""


def wanted_frames(path: Path, selection: Selection, offsets: list[float] | None = None) -> Iterator[Decoded]:
    """Decode a video up to the last wanted frame.

    Args:
        path: of the video.
        selection: what is wanted.
        offsets: filled as the frames come, see ``Timing.clock_offsets``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, or truncated or damaged.
    """
    start, kept, last = selection.start_s, 0, None
    with open_container(path) as container:
        stream = picture_stream(container, path)
        native = average_fps(stream)
        clock = Clock(container, 1 / native)
        for number, frame in enumerate(shown_frames(container, stream, path)):
            time = clock(frame.time)
            if offsets is not None:
                offsets[:] = clock.offsets
            if selection.max_seconds is not None and time >= start + selection.max_seconds - 1e-6:
                break
            if time < start - 1e-6 or (
                selection.fps and not _starts_interval(time, last, selection.fps, start)
            ):
                continue
            last, kept = time, kept + 1
            yield Decoded(number, time, frame, stream)
            if kept == selection.max_frames:
                break
        else:
            _check_complete(path, container, stream, number + 1, time + 1 / native)


class FrameReader:
    """The wanted frames of a video as a sequence: as long as an array of them, and as large as one frame.

    Each pass over the sequence decodes the file anew. Single frames are found by decoding from the last one
    that was asked for, or from the beginning where that is behind. Slices decode on their own, so that
    threads can share a video by its slices.

    Args:
        path: any container and codec that FFmpeg reads.
        selection: which frames, and how large.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, truncated or damaged, or nothing left after ``start_s``.
    """

    def __init__(self, path: str | Path, selection: Selection | None = None) -> None:
        self.path, self.selection = Path(path), selection or Selection()
        offsets: list[float] = []
        # What a container announces is not always what it holds.
        times = [each.time_s for each in wanted_frames(self.path, self.selection, offsets)]
        if not times:
            start = self.selection.start_s
            raise ValueError(f"{path} has no frame after {start} s; set start_s below its duration")
        with open_container(self.path) as container:
            native = average_fps(picture_stream(container, self.path))
        fps = rate_of(times, native)
        self.timing = Timing(np.asarray(times, np.float64), fps, tuple(offsets))
        self._range = range(len(times))
        self._ahead: Iterator[Decoded] = iter(())
        self._position = len(times)

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        shape = None
        for each in self._from(0):
            frame = self._picture(each)
            shape = shape or frame.shape
            check_size(self.path, frame.shape == shape)
            yield frame

    @overload
    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]: ...

    @overload
    def __getitem__(self, index: slice) -> FrameReader: ...

    def __getitem__(self, index: int | slice) -> UInt8[np.ndarray, "h w 3"] | FrameReader:
        """One frame, or consecutive ones as a sequence of their own."""
        if isinstance(index, slice):
            return self._part(self._range[index])
        index = range(len(self))[index]
        if index < self._position:
            self._ahead, self._position = self._from(index), index
        for _ in range(index - self._position):
            next(self._ahead)
        self._position = index + 1
        return self._picture(next(self._ahead))

    def _part(self, numbers: range) -> FrameReader:
        if numbers.step != 1:
            raise ValueError(f"a slice of a video's frames has step 1, got {numbers.step}")
        part = object.__new__(FrameReader)
        part.path, part.selection, part.timing, part._range = self.path, self.selection, self.timing, numbers
        part._ahead, part._position = iter(()), len(numbers)
        return part

    def _from(self, index: int) -> Iterator[Decoded]:
        wanted = self._range[index:]
        for position, each in enumerate(wanted_frames(self.path, self.selection)):
            if position >= wanted.stop:
                return
            if position >= wanted.start:
                yield each

    def _picture(self, decoded: Decoded) -> UInt8[np.ndarray, "h w 3"]:
        return decoded.rgb(self.path, self.selection.max_side)


def check_size(path: Path, is_same: bool) -> None:
    """Refuse a video whose frames do not have one size."""
    if not is_same:
        raise ValueError(f"{path} changes its frame size midway; split it where the size changes")


def _starts_interval(time: float, last: float | None, fps: float, start_s: float) -> bool:
    """Whether no frame of this frame's interval of 1 / fps has been kept yet."""
    # Timestamps are rounded to the container's clock, 1 ms in Matroska.
    slack = 0.002
    if last is None:
        return True
    return int((time - start_s + slack) * fps) > int((last - start_s + slack) * fps)


def _duration(container: Any, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _check_complete(path: Path, container: Any, stream: VideoStream, decoded: int, end_s: float) -> None:
    """Complain when the file ends well before its header says it does."""
    promised = stream.frames
    duration = _duration(container, stream)
    # Trimmed files may keep frames that are never shown: both count and time must be short.
    too_few = promised > 0 and decoded < 0.95 * promised - 2
    too_short = duration > 0 and end_s < 0.95 * duration - 2 / average_fps(stream)
    if too_few and too_short:
        raise ValueError(
            f"{path} is truncated: its header announces {promised} frames, it ends after {decoded}"
        )
