"""Frames read on demand equal those read at once, and are not kept."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from rome_lightning.media.frame_reader import FrameReader, Selection
from rome_lightning.media.video import read_video, write_video

NUM_FRAMES = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (NUM_FRAMES, 6, 8, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    # Not at a constant rate.
    times = np.arange(NUM_FRAMES) / 25 + (np.arange(NUM_FRAMES) > 10) * 0.3
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, 25.0, timestamps=times)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"max_frames": 7},
        {"fps": 9.0},
        {"start_s": 0.5, "max_side": 64},
        {"max_seconds": 0.9},
        {"fps": 12.0, "start_s": 0.2, "max_seconds": 1.0, "max_frames": 5},
    ],
)
def test_the_same_frames_as_read_at_once(clip: Path, wanted: dict) -> None:
    whole, reader = read_video(clip, **wanted), FrameReader(clip, Selection(**wanted))
    assert len(reader) == len(whole)
    assert np.array_equal(np.stack(list(reader)), whole.frames)
    assert np.array_equal(reader.timing.times_s, whole.timestamps)
    assert (reader.timing.fps, reader.timing.clock_offsets) == (whole.fps, whole.clock_offsets)


def test_frames_by_number_in_any_order_and_by_slices_in_threads(clip: Path) -> None:
    frames, reader = read_video(clip).frames, FrameReader(clip)
    for index in (3, 4, 9, 2, -1, 0):
        assert np.array_equal(reader[index], frames[index])
    with pytest.raises(IndexError):
        reader[NUM_FRAMES]
    parts = [reader[:13], reader[13:][2:20]]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda part: np.stack(list(part)), parts)
    assert np.array_equal(first, frames[:13])
    assert np.array_equal(second, frames[15:33])
    assert np.array_equal(parts[1][4], frames[19])


def test_no_frame_is_kept(clip: Path) -> None:
    size = read_video(clip, max_frames=1).frames.nbytes
    tracemalloc.start()
    try:
        total = sum(int(frame[0, 0, 0]) for frame in FrameReader(clip))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 0
    assert peak < 6 * size


def test_frames_need_no_collector(clip: Path) -> None:
    """A frame in a reference cycle stays until garbage collection, which counts objects, not bytes."""
    gc.disable()
    try:
        gc.collect()
        for _ in FrameReader(clip):
            pass
        alive = [each for each in gc.get_objects() if type(each) is av.VideoFrame and each.width > 16]
    finally:
        gc.enable()
    assert len(alive) <= 1


def test_what_is_no_video_is_refused_as_when_read_at_once(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no video at .*gone\.mp4"):
        FrameReader(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="set start_s below its duration"):
        FrameReader(clip, Selection(start_s=100.0))
    with pytest.raises(ValueError, match="max_frames must be positive, got 0"):
        Selection(max_frames=0)


def test_a_video_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    parts = []
    for width in (64, 96):
        part = tmp_path / f"{width}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.zeros((48, width, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
            container.mux(stream.encode())
        parts.append(part.read_bytes())
    path = tmp_path / "sizes.h264"
    path.write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"sizes\.h264 changes its frame size midway"):
        list(FrameReader(path))
    with pytest.raises(ValueError, match=r"sizes\.h264 changes its frame size midway"):
        read_video(path)
