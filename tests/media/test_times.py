"""Timestamps and sound: image and sound stay in sync."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rome_lightning.media.audio import NO_SOUND, copy_audio
from rome_lightning.media.video import probe, read_video, stream_video, write_video

RATE = 16000


def grey(value: float) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def driver(
    path: Path,
    times: list[float],
    video_shift: float = 0.0,
    audio_shift: float = 0.0,
    codec: str = "aac",
    seconds: float = 3.0,
) -> Path:
    """Black frames, and a white one at 1 s together with a click; each shifted."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        sound = container.add_stream(codec, rate=RATE, layout="mono")
        packets = []
        for time in times:
            frame = av.VideoFrame.from_ndarray(grey(255 if abs(time - 1) < 0.01 else 0))
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = round((time + video_shift) * 90000), Fraction(1, 90000)
            packets += stream.encode(frame)
        packets += stream.encode()
        samples = np.zeros(round(seconds * RATE), np.float32)
        samples[RATE : RATE + 400] = np.sin(np.arange(400)) * 0.9
        form = sound.codec_context.format.name
        resampler = av.AudioResampler(format=form, layout="mono", rate=RATE)
        for start in range(0, len(samples), 1024):
            piece = av.AudioFrame.from_ndarray(
                samples[None, start : start + 1024], format="fltp", layout="mono"
            )
            piece.rate, piece.pts, piece.time_base = RATE, start, Fraction(1, RATE)
            for part in resampler.resample(piece):
                part.pts = start + round(audio_shift * RATE)
                packets += sound.encode(part)
        packets += sound.encode()
        for packet in sorted((p for p in packets if p.dts is not None), key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def flash_and_click(path: Path) -> tuple[float, float]:
    """Presentation times of the white frame and of the sound, seconds."""
    with av.open(str(path)) as container:
        flash = next(f.time for f in container.decode(video=0) if f.to_ndarray(format="gray").mean() > 128)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(float)).max(0) > 0.2)
            if len(loud):
                return flash, frame.time + loud[0] / frame.sample_rate
    raise AssertionError("no click")


def carried(source: Path) -> Path:
    """The same frames written by us, with the source's sound."""
    video = read_video(source)
    path = source.with_name("out.mp4")
    write_video(path, video.frames, video.fps, timestamps=video.timestamps)
    assert copy_audio(path, source, video.clock_offsets) == ""
    return path


EVEN = [i / 25 for i in range(75)]
UNEVEN = [t for t in EVEN if t < 1.5] + [1.5 + i * 0.16 for i in range(9)]


@pytest.mark.parametrize(
    ("name", "times", "shifts"),
    [
        ("plain.mp4", EVEN, (0.0, 0.0)),
        ("uneven.mkv", [t * 2 for t in EVEN if t * 2 < 1] + [t for t in EVEN if t >= 1], (0.0, 0.0)),
        ("late_sound.mkv", EVEN, (0.0, 0.8)),
        ("late_picture.mkv", EVEN, (0.8, 0.0)),
        ("start5.mkv", EVEN, (5.0, 5.0)),
        ("transport.ts", EVEN, (1.4, 1.4)),
    ],
)
def test_sound_stays_with_the_pictures(
    tmp_path: Path, name: str, times: list[float], shifts: tuple[float, float]
) -> None:
    source = driver(tmp_path / name, times, *shifts)
    flash, click = flash_and_click(source)
    shown, heard = flash_and_click(carried(source))
    assert heard - shown == pytest.approx(click - flash, abs=0.02)
    assert shown == pytest.approx(1.0, abs=0.003)


def test_a_stream_knows_the_clock_of_its_sound(tmp_path: Path) -> None:
    source = driver(tmp_path / "late_picture.mkv", EVEN, 0.8, 0.0)
    offsets: list[float] = []
    assert len(list(stream_video(source, offsets))) == len(EVEN)
    assert tuple(offsets) == read_video(source).clock_offsets
    assert offsets == pytest.approx([-0.8], abs=1e-3)


@pytest.mark.parametrize("name", ["pcm.mov", "pcm.mkv"])
def test_sound_that_players_do_not_read_is_encoded(tmp_path: Path, name: str) -> None:
    path = carried(driver(tmp_path / name, EVEN, codec="pcm_s16le"))
    shown, heard = flash_and_click(path)
    assert heard == pytest.approx(shown, abs=0.02)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_lost_sound_is_said(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", [grey(0)] * 5, 25.0)
    target = write_video(tmp_path / "target.mp4", [grey(0)] * 5, 25.0)
    assert copy_audio(target, silent, (0.0,)) == NO_SOUND
    source = driver(tmp_path / "late.mkv", EVEN, audio_shift=2.0)
    assert "none of it overlaps the frames" in copy_audio(target, source, (0.0,))
    with av.open(str(target)) as container:
        assert not container.streams.audio


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "uneven.mp4", [grey(i) for i in range(len(UNEVEN))], 25.0, timestamps=UNEVEN
    )
    assert read_video(path).timestamps == pytest.approx(np.array(UNEVEN), abs=1e-4)
    assert [time for time, _ in stream_video(path)] == pytest.approx(UNEVEN, abs=1e-4)
    with pytest.raises(ValueError, match="do not increase"):
        write_video(path, [grey(0)] * 3, 25.0, timestamps=[0.0, 0.5, 0.5])


@pytest.mark.parametrize("fps", [24000 / 1001, 25.0, 30000 / 1001, 50.0])
def test_even_times_keep_their_rate(tmp_path: Path, fps: float) -> None:
    path = write_video(tmp_path / "even.mp4", [grey(i) for i in range(9)], fps, timestamps=np.arange(9) / fps)
    assert probe(path).fps == pytest.approx(fps, abs=1e-4)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_shows_its_frames_at_its_rate(tmp_path: Path, codec: str) -> None:
    """AVI has no presentation times, and this file has frames predicted from later ones."""
    path = tmp_path / "driver.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2"})
        stream.bit_rate = 4_000_000
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(grey(10 * number)).reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(path)
    assert np.abs(video.frames.mean((1, 2, 3)) - 10 * np.arange(24)).max() < 4
    assert np.allclose(video.timestamps, np.arange(24) / 25)
    assert video.clock_offsets == (0,)
    assert np.allclose([time for time, _ in stream_video(path)], video.timestamps)
    assert (probe(path).num_frames, probe(path).fps) == (24, pytest.approx(25))


def test_a_clock_that_starts_again_continues(tmp_path: Path) -> None:
    """Two transport stream recordings, concatenated as files."""
    part = driver(tmp_path / "part.ts", EVEN)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    video = read_video(joined)
    assert video.fps == pytest.approx(25)
    assert len(video) == 150
    assert video.timestamps == pytest.approx(np.arange(150) / 25, abs=1e-3)
    assert len(read_video(joined, fps=6.0)) == 36
    info = probe(joined)
    assert (info.num_frames, info.fps) == (150, pytest.approx(25))
    # The click of the second recording, relative to its white frame.
    path = carried(joined)
    with av.open(str(path)) as container:
        clicks = [frame.time for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.2]
    assert min(abs(click - 4.0) for click in clicks) < 0.1


def test_what_is_there_is_counted(tmp_path: Path) -> None:
    """A live recording states neither length nor rate; a truncated one states a wrong length."""
    path = tmp_path / "live.mkv"
    times = [0.0, *np.cumsum([0.04] * 19)]
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=1000, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(grey(0)).reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = probe(path)
    assert info.num_frames == 20
    assert info.is_exact
    assert info.fps == pytest.approx(25)
    assert info.duration_s == pytest.approx(0.8, abs=0.01)
    out = write_video(
        tmp_path / "out.mp4", [grey(0)] * 20, info.fps, timestamps=(t for t, _ in stream_video(path))
    )
    assert probe(out).duration_s == pytest.approx(0.8, abs=0.01)


def test_a_cut_file_counts_what_is_left(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(60)]
    data = write_video(tmp_path / "whole.mp4", noise, 25.0).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    info = probe(tmp_path / "cut.mp4")
    assert info.num_frames < 45
    assert not info.is_exact


@pytest.mark.parametrize("name", ["12:30:15.mp4", "take:1.mp4", "file:x.mp4", "100%d.mp4", "a b#c?.mp4"])
def test_names_are_no_addresses(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    driver(tmp_path / "source.mkv", EVEN[:30])
    Path("source.mkv").rename(name.replace("mp4", "mkv"))
    write_video(name, [grey(0)] * 30, 25.0)
    assert len(read_video(name)) == probe(name).num_frames == 30
    assert copy_audio(Path(name), Path(name.replace("mp4", "mkv")), (0.0,)) == ""
    with av.open(f"file:{name}") as container:
        assert container.streams.audio
