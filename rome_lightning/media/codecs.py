"""Video formats by file suffix: for players, or with transparency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """A container and the codecs in it."""

    container: str
    """FFmpeg's name."""
    video: str
    """FFmpeg's name of the encoder."""
    pixels: str
    """Pixel format of opaque pictures."""
    alpha_pixels: str | None
    """Pixel format of transparent pictures; ``None`` where the codec has no transparency."""
    options: Mapping[str, str]
    """Of the encoder."""
    audio: str
    """Encoder of sound that is not kept as it is."""
    kept_audio: tuple[str, ...]
    """Decoders' names of the codecs that players read from this container."""
    muxing: Mapping[str, str] = field(default_factory=dict)
    """Options of the container."""


FORMATS: Mapping[str, Format] = {
    ".mp4": Format(
        "mp4",
        "libx264",
        "yuv420p",
        None,
        {"preset": "fast"},
        "aac",
        ("aac", "mp3", "mp3float", "opus", "libopus", "ac3", "eac3", "alac", "flac"),
        {"movflags": "+faststart"},
    ),
    ".webm": Format(
        "webm",
        "libvpx-vp9",
        "yuv420p",
        "yuva420p",
        # Constant quality needs a bit rate of 0; transparency allows no alternate reference frames.
        {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1", "auto-alt-ref": "0"},
        "libopus",
        ("opus", "libopus", "vorbis", "libvorbis"),
    ),
    ".mov": Format(
        "mov",
        "prores_ks",
        "yuv422p10le",
        "yuva444p10le",
        {"vendor": "apl0"},
        "aac",
        ("aac", "mp3", "mp3float", "ac3", "alac", "pcm_s16le"),
    ),
}
"""By suffix: H.264 for players, VP9 for browsers, ProRes for editors."""


def format_of(path: Path, transparent: bool = False) -> Format:
    """The format of a video to be written.

    Args:
        path: of the file.
        transparent: whether its pictures have an alpha channel.

    Raises:
        ValueError: the suffix is none of ``FORMATS``, or its codec has no transparency.
    """
    known = FORMATS.get(path.suffix.lower())
    if known is None:
        raise ValueError(f"a video is written as {', '.join(FORMATS)}, got {path}")
    if transparent and known.alpha_pixels is None:
        raise ValueError(
            f"{path.suffix} files have no transparency, got {path}; write .webm (VP9), .mov (ProRes 4444) or "
            "a folder of PNG files"
        )
    return known
