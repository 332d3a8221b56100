"""Transparent videos keep colour and opacity; formats without transparency report it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from rome_lightning.media.codecs import FORMATS, format_of
from rome_lightning.media.video import read_video, write_video


def discs(count: int = 4, size: int = 64) -> list[np.ndarray]:
    """A red disc that moves on a transparent background."""
    y, x = np.mgrid[:size, :size]
    frames = []
    for index in range(count):
        inside = (x - 20 - 6 * index) ** 2 + (y - 32) ** 2 < 15**2
        frame = np.zeros((size, size, 4), np.uint8)
        frame[..., 0], frame[..., 1], frame[..., 3] = 200, 40, 255 * inside
        frames.append(frame)
    return frames


def decoded(path: Path) -> np.ndarray:
    """RGBA from FFmpeg's decoders alone, with the VP9 decoder that supports transparency."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "vp9":
            return np.stack([frame.to_ndarray(format="rgba") for frame in container.decode(stream)])
        context = av.CodecContext.create("libvpx-vp9", "r")
        frames = [frame for packet in container.demux(stream) for frame in context.decode(packet)]
        return np.stack([frame.to_ndarray(format="rgba") for frame in frames])


@pytest.mark.parametrize("suffix", [".webm", ".mov"])
def test_opacity_survives(suffix: str, tmp_path: Path) -> None:
    frames = discs()
    found = decoded(write_video(tmp_path / f"a{suffix}", frames, 25.0))
    assert found.shape == (4, 64, 64, 4)
    for mine, theirs in zip(frames, found, strict=True):
        solid, empty = mine[..., 3] == 255, mine[..., 3] == 0
        # Lossy, so edges differ.
        assert np.mean(theirs[solid, 3] > 230) > 0.9
        assert np.mean(theirs[empty, 3] < 25) > 0.95
        assert np.abs(np.median(theirs[solid, :3], axis=0) - (200, 40, 0)).max() < 12


def test_opaque_videos_of_every_suffix_are_read_back(tmp_path: Path) -> None:
    frames = [frame[..., :3] for frame in discs()]
    for suffix in FORMATS:
        times = [0.0, 0.05, 0.1, 0.3]
        video = read_video(write_video(tmp_path / f"a{suffix}", frames, 25.0, timestamps=times))
        assert video.frames.shape == (4, 64, 64, 3), suffix
        assert video.timestamps == pytest.approx(times, abs=2e-3)
        assert np.abs(np.median(video.frames[0], axis=(0, 1)) - (200, 40, 0)).max() < 12


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no transparency.*\.webm"):
        write_video(tmp_path / "a.mp4", discs(), 25.0)
    with pytest.raises(ValueError, match=r"written as \.mp4, \.webm, \.mov"):
        write_video(tmp_path / "a.avi", discs(), 25.0)
    assert format_of(Path("a.MOV"), transparent=True).video == "prores_ks"
    assert not list(tmp_path.iterdir())
