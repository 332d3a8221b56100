"""The sound of a driver, carried over to the video that it drives."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
from av.packet import Packet

from rome_lightning.media.atomic import atomic_path
from rome_lightning.media.codecs import format_of
from rome_lightning.media.container import TS_DISCONT, file_address, is_restart, open_container

NO_SOUND = "the driver has no sound"
"""What ``copy_audio`` returns where there was nothing to lose."""


def copy_audio(video: Path, source: Path, clock_offsets: Sequence[float]) -> str:
    """Add the sound of another video to a video, in sync with its frames.

    Sound before the first frame and after the last one is dropped. Codecs that players support in the
    container are copied; others become AAC, or Opus in WebM.

    Args:
        video: one of ``codecs.FORMATS`` without sound that starts at 0; replaced.
        source: where the sound comes from.
        clock_offsets: ``Video.clock_offsets`` of ``source``: they take its clock to that of ``video``.

    Returns:
        What was lost, as a readable clause; empty if ``video`` now has the sound.
    """
    try:
        with open_container(source) as sounds:
            sound = sounds.streams.best("audio")
            if sound is None:
                return NO_SOUND
            with atomic_path(video) as temporary:
                _join(video, temporary, sounds, sound, clock_offsets)
                temporary.chmod(video.stat().st_mode)
        return ""
    except (av.FFmpegError, ValueError) as error:
        return f"the driver's sound cannot be used ({' '.join(str(error).split())})"


def _join(video: Path, temporary: Path, sounds: Any, sound: Any, clock_offsets: Sequence[float]) -> None:
    """Write pictures and sound."""
    kind = format_of(video)
    muxing = dict(kind.muxing)
    with (
        av.open(file_address(video)) as pictures,
        av.open(file_address(temporary), "w", format=kind.container, options=muxing) as target,
    ):
        end = float(pictures.duration or 0) / av.time_base
        shown = target.add_stream_from_template(pictures.streams.video[0])
        if sound.codec_context.name in kind.kept_audio:
            heard = target.add_stream_from_template(sound)
            packets = _moved(sounds, sound, clock_offsets, end)
        else:
            layout = "mono" if sound.codec_context.channels == 1 else "stereo"
            # Opus knows few rates; 48 kHz is its own.
            rate = 48_000 if kind.audio == "libopus" else sound.codec_context.sample_rate
            heard = target.add_stream(kind.audio, rate=rate, layout=layout)
            packets = _encoded(_moved(sounds, sound, clock_offsets, end), sound, heard)
        stored = (packet for packet in pictures.demux(pictures.streams.video[0]) if packet.dts is not None)
        count = 0
        # Players want both side by side.
        for packet, stream in heapq.merge(
            ((packet, shown) for packet in stored),
            ((packet, heard) for packet in packets),
            key=_decoding_time,
        ):
            packet.stream = stream
            target.mux(packet)
            count += stream is heard
        if not count:
            raise ValueError("none of it overlaps the frames")


def _decoding_time(item: tuple[Any, Any]) -> float:
    return float(item[0].dts * item[0].time_base)


def _moved(sounds: Any, sound: Any, clock_offsets: Sequence[float], end: float) -> Iterator[Packet]:
    """Packets of sound between 0 and ``end`` with the time of the pictures."""
    jumps = bool(sounds.format.flags & TS_DISCONT)
    stretch, expected, last = 0, None, -math.inf
    for packet in sounds.demux(sound):
        if packet.pts is None or not packet.size:
            continue
        time = float(packet.pts * packet.time_base)
        length = float((packet.duration or 0) * packet.time_base)
        if expected is not None and is_restart(time - expected, jumps):
            stretch += 1
        expected = time + length
        moved = time + clock_offsets[min(stretch, len(clock_offsets) - 1)]
        # A packet that ends as the pictures start keeps the decoder from starting with a click. The sound of
        # a stretch may be longer than its pictures: what would be heard over the next one is left out.
        if moved + length < 0 or moved >= end or moved < last + length / 2:
            continue
        last = moved
        packet.pts = packet.dts = round(moved / packet.time_base)
        yield packet


def _encoded(packets: Iterator[Packet], sound: Any, target: Any) -> Iterator[Packet]:
    """The same sound, re-encoded."""
    resampler = av.AudioResampler(format=target.format, layout=target.layout, rate=target.rate)
    context = sound.codec_context
    for packet in packets:
        for frame in context.decode(packet):
            frame.time_base = frame.time_base or sound.time_base
            for piece in resampler.resample(frame):
                yield from target.encode(piece)
    for frame in context.decode(None):
        for piece in resampler.resample(frame):
            yield from target.encode(piece)
    yield from target.encode(None)
