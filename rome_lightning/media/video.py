"""Reading and writing videos and photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from PIL import Image, ImageOps

from rome_lightning.media.atomic import atomic_path

# Streams without a colour tag: broadcast rules, standard definition is BT.601 and HD is BT.709.
_HD_HEIGHT = 720


@dataclass(frozen=True)
class VideoInfo:
    """What a container says about its picture, before anything is decoded."""

    path: Path
    width: int
    """Pixels, as displayed (after the rotation of the metadata)."""
    height: int
    """Pixels, as displayed."""
    fps: float
    """Average frames per second."""
    num_frames: int
    """Frames that the container promises; an estimate from its duration where it keeps no count, 0 if
    it states neither."""
    duration_s: float
    """0 if the container does not state it."""
    rotation: int
    """Degrees, counter-clockwise, that turn the stored picture upright: 0, 90, 180 or 270."""
    codec: str


@dataclass(frozen=True)
class Video:
    """Decoded frames and when they are shown."""

    frames: UInt8[np.ndarray, "n h w 3"]
    """RGB, upright."""
    fps: float
    """Frames per second of ``frames``."""
    timestamps: Float64[np.ndarray, " n"]
    """Seconds since the first frame of the file."""
    frame_numbers: Int32[np.ndarray, " n"]
    """Position of each frame in the file, counted from 0."""
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.frames)


def probe(path: str | Path) -> VideoInfo:
    """Read the properties of a video without decoding more than one frame.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, or nothing to decode.
    """
    path = Path(path)
    with _open(path) as container:
        stream = _picture_stream(container, path)
        rotation = _rotation(next(_decode(container, stream, path)))
        width, height = stream.width, stream.height
        if rotation in (90, 270):
            width, height = height, width
        fps = _average_fps(stream)
        duration = _duration(container, stream)
        frames = stream.frames or round(duration * fps)
        return VideoInfo(path, width, height, fps, frames, duration, rotation, stream.codec_context.name)


def read_video(
    path: str | Path,
    max_frames: int | None = None,
    fps: float | None = None,
    start_s: float = 0.0,
    max_side: int | None = None,
) -> Video:
    """Decode a video into memory.

    Args:
        path: any container and codec that FFmpeg reads.
        max_frames: stop after so many returned frames.
        fps: rate of the result; of each interval of 1/fps the first frame is kept, none is repeated, so
            a slower video comes back as it is. Videos of variable frame rate keep their timestamps.
        start_s: seconds to leave out at the beginning.
        max_side: longer side of the result in pixels; larger frames are averaged down while decoding.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, truncated or damaged, or nothing left after ``start_s``.
    """
    path = Path(path)
    for name, value in (("max_frames", max_frames), ("fps", fps), ("max_side", max_side)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    frames: list[np.ndarray] = []
    timestamps: list[float] = []
    numbers: list[int] = []
    with _open(path) as container:
        stream = _picture_stream(container, path)
        native = _average_fps(stream)
        for number, time, frame in _shown_frames(container, stream, path):
            if time < start_s - 1e-6 or (fps and not _starts_interval(time, timestamps, fps, start_s)):
                continue
            frames.append(_to_rgb(frame, max_side))
            timestamps.append(time)
            numbers.append(number)
            if len(frames) == max_frames:
                break
        else:
            _check_complete(path, container, stream, number + 1, time + 1 / native)
    if not frames:
        raise ValueError(f"{path} has no frame after {start_s} s; set start_s below its duration")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError(f"{path} changes its picture size on the way; cut it where the size changes")
    return Video(
        np.stack(frames),
        _rate_of(timestamps, native),
        np.asarray(timestamps, np.float64),
        np.asarray(numbers, np.int32),
        path,
    )


def stream_video(path: str | Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames of a video one by one, upright RGB, without keeping them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, no picture in it, or damaged.
    """
    path = Path(path)
    with _open(path) as container:
        stream = _picture_stream(container, path)
        for frame in _decode(container, stream, path):
            yield _to_rgb(frame, None)


def write_video(
    path: str | Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, quality: int = 18
) -> Path:
    """Write H.264 in MP4 that every browser and player shows.

    The file appears under its name only when it is complete.

    Args:
        path: ends in ``.mp4``.
        frames: RGB, all of one size; an odd height or width is made even by repeating the last row or
            column, because the chroma of H.264 has half the resolution.
        fps: frames per second.
        quality: constant rate factor of x264, 0 (lossless) to 51; 18 looks like the original.

    Returns:
        ``path``.
    """
    path = Path(path)
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"no frames to write to {path}")
    with atomic_path(path) as temporary:
        _encode(str(temporary), path, first, iterator, fps, quality)
    return path


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a photo as upright RGB.

    The EXIF rotation is applied; transparent pixels are laid on white; greyscale, palette, CMYK and
    16-bit images are converted. HEIC needs the package ``pillow-heif``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image that Pillow reads, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    if path.suffix.lower() in (".heic", ".heif"):
        _register_heif(path)
    try:
        with Image.open(path) as image:
            image.load()
            return _image_to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports damaged files by all of these, some texts with line breaks.
        raise ValueError(f"cannot read {path} as an image: {' '.join(str(error).split())}") from error


def _register_heif(path: Path) -> None:
    """Teach Pillow to read HEIC."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ValueError(
            f"{path} is a HEIC picture, which needs pillow-heif: pip install 'rome-lightning[heic]', "
            "or export it as JPEG"
        ) from error
    pillow_heif.register_heif_opener()


SAFE_CONTAINERS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,asf,"
    "h264,hevc,m4v,ivf,mjpeg,mpjpeg,mxf,dv,rm,nut,yuv4mpegpipe,apng,av1,obu,vc1,wtv,wav,mp3,flac,aac",
    "protocol_whitelist": "file",
}
"""Options for opening videos from outside: no lists that name other files or addresses (concat, HLS)."""


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no video at {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    try:
        return av.open(str(path), options=SAFE_CONTAINERS)
    except av.FFmpegError as error:
        raise ValueError(
            f"cannot read {path} as a video ({error.strerror}); it is truncated or no video"
        ) from error


def _picture_stream(container: Any, path: Path) -> VideoStream:
    """The first video stream that is not a cover picture."""
    pictures = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream not in container.streams.video})
        raise ValueError(f"{path} has no video stream, only {', '.join(kinds) or 'nothing'}")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _decode(container: Any, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    """Decode every frame; damage becomes a ``ValueError`` that names the file."""
    count = 0
    try:
        for frame in container.decode(stream):
            count += 1
            yield frame
    except av.FFmpegError as error:
        raise ValueError(f"{path} is damaged after {count} frames ({error.strerror})") from error
    if count == 0:
        raise ValueError(f"{path} has a video stream without a single frame; it is truncated or empty")


def _shown_frames(container: Any, stream: VideoStream, path: Path) -> Iterator[tuple[int, float, VideoFrame]]:
    """(number, seconds since the first frame, frame) in the order of display."""
    first: float | None = None
    fps = _average_fps(stream)
    for number, frame in enumerate(_decode(container, stream, path)):
        # Streams without timestamps (raw H.264) are taken to be regular.
        shown = frame.time if frame.time is not None else number / fps
        first = shown if first is None else first
        yield number, shown - first, frame


def _starts_interval(time: float, kept: list[float], fps: float, start_s: float) -> bool:
    """Whether no frame of this frame's interval of 1 / fps has been kept yet."""
    # Timestamps are rounded to the container's clock, 1 ms in Matroska.
    slack = 0.002
    if not kept:
        return True
    return int((time - start_s + slack) * fps) > int((kept[-1] - start_s + slack) * fps)


def _rate_of(timestamps: list[float], native: float) -> float:
    span = timestamps[-1] - timestamps[0]
    return (len(timestamps) - 1) / span if span > 0 else native


def _average_fps(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


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
    too_short = duration > 0 and end_s < 0.95 * duration - 2 / _average_fps(stream)
    if too_few and too_short:
        raise ValueError(f"{path} is truncated: it promises {promised} frames and ends after {decoded}")


def _rotation(frame: VideoFrame) -> int:
    """Counter-clockwise degrees that turn the stored picture upright, to a multiple of 90."""
    return round(frame.rotation / 90) % 4 * 90


def _to_rgb(frame: VideoFrame, max_side: int | None) -> np.ndarray:
    """Upright RGB of at most ``max_side`` pixels on the longer side."""
    width, height = frame.width, frame.height
    if max_side is not None and max(width, height) > max_side:
        scale = max_side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    untagged = frame.colorspace in (0, 2)
    source = ("ITU709" if frame.height >= _HD_HEIGHT else "ITU601") if untagged else None
    rgb = frame.to_ndarray(
        format="rgb24", width=width, height=height, src_colorspace=source, interpolation="AREA"
    )
    return np.ascontiguousarray(np.rot90(rgb, _rotation(frame) // 90))


def _encode(
    temporary: str, path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float, quality: int
) -> None:
    shape = first.shape
    with av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": "fast"})
        stream.width, stream.height = shape[1] + shape[1] % 2, shape[0] + shape[0] % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        # BT.709, limited range: what players assume, said aloud.
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        for index, frame in enumerate(chain([first], rest)):
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(
                    f"frame {index} for {path} is {frame.dtype} {frame.shape}, the first is uint8 {shape}"
                )
            padding = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
            even = np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
            picture = VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709"
            )
            picture.pts = index
            picture.time_base = 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _image_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float32)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
