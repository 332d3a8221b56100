"""Video containers: opening them, their video stream, and a monotonic clock."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rome_lightning.media.frames import progressive

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave out transparency, which WebM keeps beside the picture."""
TS_DISCONT = 0x0200
"""FFmpeg's flag of containers whose clock may jump, such as transport streams."""
_LONGEST_GAP_S = 10.0
"""Forward jumps of such clocks that are not taken for silence; FFmpeg's ``dts_delta_threshold``."""
_RESTART_S = 0.2
"""Backward jumps above it start a stretch of its own; smaller ones are jitter."""


SAFE_CONTAINERS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,asf,"
    "h264,hevc,m4v,ivf,mjpeg,mpjpeg,mxf,dv,rm,nut,yuv4mpegpipe,apng,av1,obu,vc1,wtv,wav,mp3,flac,aac",
    "protocol_whitelist": "file",
}
"""Options for opening videos from outside: no lists that name other files or addresses (concat, HLS)."""


def open_container(path: Path) -> Any:
    """Open a file for reading; its name is never interpreted as an address.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty, not a regular file, or not a container that FFmpeg knows.
    """
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    try:
        return av.open(file_address(path), options=SAFE_CONTAINERS)
    except av.FFmpegError as error:
        _say_animated_webp(path)
        raise ValueError(
            f"cannot read {path} as a video ({error.strerror}); it is truncated or not a video"
        ) from error


def file_address(path: str | Path) -> str:
    """A path that FFmpeg does not take for an address, with a colon in it or not."""
    return f"file:{path}"


def picture_stream(container: Any, path: Path) -> VideoStream:
    """The first video stream that is not a cover picture."""
    pictures = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams if stream not in container.streams.video})
        raise ValueError(f"{path} has no video stream, only {', '.join(kinds) or 'nothing'}")
    streams[0].thread_type = "AUTO"
    return streams[0]


def shown_frames(container: Any, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    """Every frame in the order of display, deinterlaced; damage becomes a ``ValueError`` with the file."""
    count = 0
    try:
        for frame in progressive(_decode(container, stream)):
            count += 1
            yield frame
    except av.FFmpegError as error:
        _say_animated_webp(path)
        raise ValueError(f"{path} is damaged after {count} frames ({error.strerror})") from error
    if count == 0:
        _say_animated_webp(path)
        raise ValueError(f"{path} has a video stream without a single frame; it is truncated or empty")


def _decode(container: Any, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames in the order of display."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    context: Any = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and name in av.codecs_available:
        context = av.CodecContext.create(name, "r")
        context.extradata = stream.codec_context.extradata
    shown_at = _DisplayTimes(container)
    for packet in container.demux(stream):
        shown_at.add(packet)
        for frame in context.decode(packet):
            frame.time_base = stream.time_base
            shown_at.stamp(frame)
            yield frame


class _DisplayTimes:
    """Time stamps of frames from AVI, which says only in which order pictures are decoded.

    Frames come in the order in which they are shown, so that the first one has the earliest time of all
    packets, and so on. FFmpeg guesses, which jumps where pictures are predicted from later ones, and is late
    against the sound.
    """

    def __init__(self, container: Any) -> None:
        self._waiting: list[int] | None = [] if container.format.name == "avi" else None

    def add(self, packet: Any) -> None:
        """Note a picture that will be shown."""
        if self._waiting is not None and packet.dts is not None and packet.size:
            heapq.heappush(self._waiting, packet.dts)

    def stamp(self, frame: VideoFrame) -> None:
        """Give the next frame its time."""
        if self._waiting:
            frame.pts = heapq.heappop(self._waiting)


def _say_animated_webp(path: Path) -> None:
    """FFmpeg does not decode animated WebP, which is no damage."""
    with path.open("rb") as file:
        head = file.read(32)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
        raise ValueError(
            f"{path} is an animated WebP, which is not read as a video; convert it to MP4 or GIF"
        )


class Clock:
    """Makes the time stamps of one stream rise from 0, across restarts and jumps of the container's clock.

    Args:
        container: that the stream belongs to.
        step: seconds between frames, until they show it themselves.
    """

    def __init__(self, container: Any, step: float) -> None:
        self.offsets: list[float] = []
        """Seconds to add to time stamps, for each stretch between restarts."""
        self._jumps = bool(container.format.flags & TS_DISCONT)
        self._step = step
        self._last = 0.0
        self._steps: list[float] = []

    def __call__(self, time: float | None) -> float:
        """Seconds since the first frame; streams without time stamps are taken to be regular."""
        if not self.offsets:
            self.offsets.append(-time if time is not None else 0.0)
            return 0.0
        step = statistics.median(self._steps) if self._steps else self._step
        now = self._last + step if time is None else time + self.offsets[-1]
        if time is not None and is_restart(now - self._last, self._jumps):
            self.offsets.append(self._last + step - time)
            now = self._last + step
        # Two frames of one time stamp, or out of order by jitter.
        now = max(now, self._last + step / 10)
        self._steps = [*self._steps[-30:], now - self._last]
        self._last = now
        return now


def is_restart(passed: float, jumps: bool) -> bool:
    """Whether so many seconds between two time stamps mean that the clock was set anew."""
    return passed < -_RESTART_S or (jumps and passed > _LONGEST_GAP_S)


def average_fps(stream: VideoStream) -> float:
    """Frames per second as the container states or FFmpeg guesses them; 25 where it does neither."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


def rate_of(times: Sequence[float], stated: float) -> float:
    """Mean frames per second of time stamps; what is stated where they do not say."""
    span = times[-1] - times[0] if times else 0.0
    return (len(times) - 1) / span if span > 0 else stated


def count_packets(container: Any, stream: VideoStream) -> tuple[list[float], bool]:
    """Times of the pictures that a file holds, without decoding them, and whether that is certain.

    Packets that are damaged, hold no shown picture, or cannot be decoded for want of a key frame make it
    uncertain, and so does VP8, which hides pictures in packets of their own.
    """
    times: list[float] = []
    certain = stream.codec_context.name != "vp8"
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            certain &= not packet.is_corrupt and time is not None and (bool(times) or packet.is_keyframe)
            times.append(float(time * packet.time_base) if time is not None else 0.0)
    except av.FFmpegError:
        certain = False
    return times, certain


def continuous(times: Sequence[float], clock: Clock) -> list[float]:
    """Time stamps in the order of the file as those of a clock that only goes forward, sorted."""
    stretches: list[list[float]] = [[]]
    for before, now in pairwise([times[0], *times] if times else []):
        # Pictures are stored in the order of decoding: only jumps that no reordering makes count.
        if before - now > 1.0:
            stretches.append([])
        stretches[-1].append(now)
    return [clock(time) for stretch in stretches for time in sorted(stretch)]
