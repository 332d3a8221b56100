"""Reading and writing videos."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float64, Int32, UInt8

from rome_lightning.media.atomic import atomic_path
from rome_lightning.media.codecs import Format, format_of
from rome_lightning.media.container import (
    Clock,
    average_fps,
    continuous,
    count_packets,
    file_address,
    open_container,
    picture_stream,
    rate_of,
    shown_frames,
)
from rome_lightning.media.frame_reader import Selection, check_size, wanted_frames
from rome_lightning.media.frames import display_matrix, upright_rgb

_TICKS = 120_000
"""Of the clock of written videos, per second: a whole number of them at every common frame rate."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file, and its actual content."""

    path: Path
    width: int
    """Pixels, as ``read_video`` returns them: upright and square."""
    height: int
    """Pixels, as ``read_video`` returns them."""
    fps: float
    """Average frames per second of the pictures that are there."""
    num_frames: int
    """Pictures that are there, counted; what the header promises does not matter."""
    duration_s: float
    """From the first picture to the end of the last one."""
    rotation: int
    """Degrees, counter-clockwise, that turn the stored picture upright: 0, 90, 180 or 270."""
    codec: str
    mirrored: bool = False
    """Whether the picture is mirrored left to right before it is turned."""
    is_exact: bool = True
    """Whether decoding gives exactly ``num_frames``; not so for damaged or cut pictures and for VP8."""


@dataclass(frozen=True)
class Video:
    """Decoded frames and their time stamps."""

    frames: UInt8[np.ndarray, "n h w 3"]
    """RGB, upright."""
    fps: float
    """Frames per second of ``frames``."""
    timestamps: Float64[np.ndarray, " n"]
    """Seconds since the first frame of the file."""
    frame_numbers: Int32[np.ndarray, " n"]
    """Position of each frame in the file, counted from 0."""
    path: Path | None = None
    clock_offsets: tuple[float, ...] = (0.0,)
    """Seconds to add to the file's own time stamps, for each stretch between restarts of its clock."""

    def __len__(self) -> int:
        return len(self.frames)


def probe(path: str | Path) -> VideoInfo:
    """Read the properties of a video: all of the file is read, one frame is decoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, or nothing to decode.
    """
    path = Path(path)
    with open_container(path) as container:
        stream = picture_stream(container, path)
        frame = next(shown_frames(container, stream, path))
        shape = _shown(frame, stream, path, None).shape
        a, b, c, d = display_matrix(frame)
        codec, stated = stream.codec_context.name, average_fps(stream)
    with open_container(path) as container:
        found, is_exact = count_packets(container, picture_stream(container, path))
        times = continuous(found, Clock(container, 1 / stated))
    mirrored = a * d - b * c < 0
    # Undo the mirror (x becomes -x), which leaves a turn.
    a, b = (-a, -b) if mirrored else (a, b)
    rotation = {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}[a, b]
    fps = rate_of(times, stated)
    duration = times[-1] + 1 / fps if times else 0.0
    return VideoInfo(path, shape[1], shape[0], fps, len(times), duration, rotation, codec, mirrored, is_exact)


def read_video(
    path: str | Path,
    max_frames: int | None = None,
    fps: float | None = None,
    start_s: float = 0.0,
    max_side: int | None = None,
    max_seconds: float | None = None,
) -> Video:
    """Decode a video into memory.

    Args:
        path: any container and codec that FFmpeg reads.
        max_frames: stop after so many returned frames.
        fps: rate of the result; the first frame of each interval of 1/fps is kept and none is repeated, so a
            slower video is unchanged. Videos of variable frame rate keep their timestamps.
        start_s: seconds to skip at the beginning.
        max_side: longer side of the result in pixels; larger frames are averaged down while decoding.
        max_seconds: stop before frames this long after ``start_s``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, truncated or damaged, or nothing left after ``start_s``.
    """
    path = Path(path)
    selection = Selection(max_frames, fps, start_s, max_side, max_seconds)
    frames: list[np.ndarray] = []
    timestamps: list[float] = []
    numbers: list[int] = []
    offsets: list[float] = []
    native = 25.0
    for each in wanted_frames(path, selection, offsets):
        frames.append(each.rgb(path, max_side))
        timestamps.append(each.time_s)
        numbers.append(each.number)
        native = average_fps(each.stream)
    if not frames:
        raise ValueError(f"{path} has no frame after {start_s} s; set start_s below its duration")
    check_size(path, all(frame.shape == frames[0].shape for frame in frames))
    return Video(
        np.stack(frames),
        rate_of(timestamps, native),
        np.asarray(timestamps, np.float64),
        np.asarray(numbers, np.int32),
        path,
        tuple(offsets),
    )


def stream_video(
    path: str | Path, clock_offsets: list[float] | None = None
) -> Generator[tuple[float, UInt8[np.ndarray, "h w 3"]], None, None]:
    """Seconds since the first frame, and upright RGB, of frames one by one, without keeping them.

    Args:
        path: of the video.
        clock_offsets: filled as the frames come, see ``Video.clock_offsets``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, or damaged.
    """
    path = Path(path)
    with open_container(path) as container:
        stream = picture_stream(container, path)
        clock = Clock(container, 1 / average_fps(stream))
        for frame in shown_frames(container, stream, path):
            time = clock(frame.time)
            if clock_offsets is not None:
                clock_offsets[:] = clock.offsets
            yield time, _shown(frame, stream, path, None)


def write_video(
    path: str | Path,
    frames: Iterable[UInt8[np.ndarray, "h w c"]],
    fps: float,
    quality: int = 18,
    timestamps: Iterable[float] | None = None,
) -> Path:
    """Write H.264 in MP4 that every browser and player shows, or another of ``codecs.FORMATS``.

    The file appears under its name only when it is complete.

    Args:
        path: its suffix tells the format.
        frames: RGB, or RGBA with straight alpha where the format has transparency, all of one size; an odd
            height or width is made even by repeating the last row or column, because chroma has half the
            resolution.
        fps: frames per second.
        quality: constant rate factor of H.264 and VP9, 0 (lossless) to 51; 18 looks like the original.
            ProRes has a fixed quality.
        timestamps: seconds at which the frames are shown, rising; by default one every 1/fps. The first one
            is where the video starts. They are asked for after their frames.

    Returns:
        ``path``.

    Raises:
        ValueError: there are no frames, they differ in size, time stamps do not rise, or the format is not
            known or has no transparency.
    """
    path = Path(path)
    format_of(path)
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"no frames to write to {path}")
    with atomic_path(path) as temporary:
        kind = format_of(path, first.ndim == 3 and first.shape[2] == 4)
        _encode(temporary, path, kind, chain([first], iterator), fps, quality, timestamps)
    return path


def _shown(frame: VideoFrame, stream: VideoStream, path: Path, max_side: int | None) -> np.ndarray:
    try:
        return upright_rgb(frame, stream.sample_aspect_ratio, max_side)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _encode(
    temporary: Path,
    path: Path,
    kind: Format,
    frames: Iterable[np.ndarray],
    fps: float,
    quality: int,
    timestamps: Iterable[float] | None,
) -> None:
    shape: tuple[int, ...] | None = None
    rate = Fraction(fps).limit_denominator(1001)
    times = None if timestamps is None else iter(timestamps)
    muxing = dict(kind.muxing)
    with av.open(file_address(temporary), "w", format=kind.container, options=muxing) as container:
        stream: Any = container.add_stream(kind.video, rate=rate, options=_options(kind, quality))
        start, last = 0.0, -1
        for index, frame in enumerate(frames):
            if shape is None:
                shape = frame.shape
                transparent = frame.ndim == 3 and shape[2] == 4
                _configure(stream, shape, kind, transparent)
                if times is not None:
                    stream.codec_context.time_base = Fraction(1, _TICKS)
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(
                    f"frame {index} for {path} is {frame.dtype} {frame.shape}, the first is uint8 {shape}"
                )
            padding = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
            is_odd = shape[0] % 2 or shape[1] % 2
            even = np.ascontiguousarray(np.pad(frame, padding, mode="edge") if is_odd else frame)
            picture = VideoFrame.from_ndarray(even, format="rgba" if transparent else "rgb24").reformat(
                format=stream.pix_fmt, dst_colorspace="ITU709"
            )
            picture.pts, picture.time_base = index, 1 / rate
            if times is not None:
                time = next(times)
                start = time if index == 0 else start
                picture.pts, picture.time_base = round((time - start) * _TICKS), Fraction(1, _TICKS)
                if picture.pts <= last:
                    raise ValueError(
                        f"the time stamps for {path} do not increase: frame {index} has {time} s"
                    )
                last = picture.pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _options(kind: Format, quality: int) -> dict[str, str]:
    options = dict(kind.options)
    return options if kind.video == "prores_ks" else options | {"crf": str(quality)}


def _configure(stream: Any, shape: tuple[int, ...], kind: Format, transparent: bool) -> None:
    stream.width, stream.height = shape[1] + shape[1] % 2, shape[0] + shape[0] % 2
    stream.pix_fmt = kind.alpha_pixels if transparent else kind.pixels
    context = stream.codec_context
    # BT.709, limited range: what players assume, stated explicitly.
    context.colorspace = context.color_primaries = context.color_trc = 1
    context.color_range = 1
