"""Faults while a dataset is made, and their consequences."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from fake_tracker import (
    BLUE,
    GREEN,
    RED,
    FaultyTracker,
    JumpTracker,
    SlowTracker,
    SquareTracker,
    colour_embedder,
    coloured,
    write_clip,
)

from datamodules.manifest import Manifest
from datamodules.prepare import BuildOptions, PrepareConfig, prepare
from datamodules.reading import ClipReader
from datamodules.shards import ShardInfo, ShardWriter
from rome_lightning.media.video import write_video

CONFIG = PrepareConfig(
    image_size=64, fps=None, frames_per_clip=8, min_frames=4, videos_per_shard=2, min_identity_similarity=None
)
CHECKED = dataclasses.replace(CONFIG, min_identity_similarity=0.5)


def run(videos: list[Path], output: Path, config: PrepareConfig = CONFIG, **settings: Any) -> Manifest:
    settings = {"make_tracker": SquareTracker, "make_embedder": colour_embedder, **settings}
    return prepare(videos, output, config, log=settings.pop("log", lambda line: None), **settings)


def reasons(manifest: Manifest) -> dict[str, str]:
    return {item["input"]: item["reason"] for item in manifest.failed}


def files(folder: Path) -> dict[str, bytes]:
    """The dataset's files; hidden files are the builder's notes."""
    found = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.is_file()]
    return {path.name: path.read_bytes() for path in found}


def readers(manifest: Manifest, folder: Path) -> list[tuple[str, dict[str, np.ndarray], dict[str, str]]]:
    """Key, tensors and header of every training clip."""
    reader = ClipReader(manifest, folder, "train")
    return [(reader.key(clip), *reader.meta(clip)) for clip in range(len(reader))]


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    return [write_clip(folder / f"v{index}.mp4", index) for index in range(5)]


class TestKilledBuilder:
    @pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
    def test_in_a_loop_gives_the_same_bytes_and_repeats_no_finished_shard(
        self, videos: list[Path], tmp_path: Path, workers: int
    ) -> None:
        run(videos, tmp_path / "whole")
        # A server with all imports done forks the builders, so each round costs milliseconds.
        context = get_context("forkserver")
        context.set_forkserver_preload(["fake_tracker", "datamodules.prepare.pipeline"])
        rng, output, kills = random.Random(0), tmp_path / "d", 0
        longest_s, most_kills = (3.0, 4) if workers else (0.5, 6)
        finished: dict[str, int] = {}
        while True:
            builder = context.Process(target=build_slowly, args=(videos, output, workers))
            builder.start()
            builder.join(rng.uniform(0.05, longest_s) if kills < most_kills else 120)
            if builder.exitcode is None:
                builder.kill()
                builder.join()
                kills += 1
            for name, changed in finished.items():
                assert (output / name).stat().st_mtime_ns == changed, f"{name} was written again"
            for sidecar in output.glob("train-*.json"):
                if not sidecar.name.endswith(".report.json"):
                    tar = sidecar.with_suffix(".tar")
                    finished |= {path.name: path.stat().st_mtime_ns for path in (sidecar, tar)}
            if builder.exitcode == 0:
                break
        assert kills >= 2
        assert files(output) == files(tmp_path / "whole")
        assert [path.name for path in output.iterdir() if path.name[0] == "."] == [".inputs.json"]

    def test_finished_videos_of_an_unfinished_shard_are_kept(
        self, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        track = SquareTracker.track

        def interrupted(self: SquareTracker, frames: np.ndarray, fps: float | None = None) -> Any:
            if SquareTracker.calls == 4:
                raise KeyboardInterrupt
            return track(self, frames, fps)

        config = dataclasses.replace(CONFIG, videos_per_shard=5)
        SquareTracker.calls = 0
        monkeypatch.setattr(SquareTracker, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(videos, tmp_path / "d", config)
        monkeypatch.setattr(SquareTracker, "track", track)
        SquareTracker.calls = 0
        lines: list[str] = []
        run(videos, tmp_path / "d", config, log=lines.append)
        assert SquareTracker.calls == 1
        assert "5 videos, 4 of them done in an earlier run" in lines

    def test_damaged_part_is_made_again(self, videos: list[Path], tmp_path: Path) -> None:
        run(videos, tmp_path / "whole")
        run(videos, tmp_path / "d")
        sidecar = next((tmp_path / "d").glob("train-00001-????????.json"))
        for damage in ("", "{", json.dumps({"schema": "rome-shard/1"})):
            sidecar.write_text(damage)
            run(videos, tmp_path / "d")
            assert sidecar.read_bytes() == (tmp_path / "whole" / sidecar.name).read_bytes()


def build_slowly(videos: list[Path], output: Path, workers: int) -> None:
    run(videos, output, make_tracker=SlowTracker, options=BuildOptions(workers=workers))


class TestWorkers:
    def test_bytes_do_not_depend_on_workers(self, videos: list[Path], tmp_path: Path) -> None:
        run(videos, tmp_path / "alone")
        run(videos, tmp_path / "d", options=BuildOptions(workers=2))
        assert files(tmp_path / "d") == files(tmp_path / "alone")

    @pytest.mark.slow
    def test_faulty_videos_cost_only_themselves(self, videos: list[Path], tmp_path: Path) -> None:
        run(videos[:2], tmp_path / "alone")
        faulty = [
            write_video(tmp_path / "videos" / f"{name}.mp4", coloured(colour, 12), fps=12)
            for name, colour in (("w_crash", RED), ("w_hang", BLUE), ("w_bug", GREEN))
        ]
        lines: list[str] = []
        options = BuildOptions(workers=2, video_limit_s=4)
        given = [*videos[:2], *faulty]
        manifest = run(given, tmp_path / "d", options=options, make_tracker=FaultyTracker, log=lines.append)
        whole = files(tmp_path / "alone")
        same = [name for name in whole if name.startswith("train-")]
        assert same
        assert {name: files(tmp_path / "d")[name] for name in same} == {name: whole[name] for name in same}
        assert {item["input"]: item["kind"] for item in manifest.failed} == {
            "w_bug.mp4": "error",
            "w_crash.mp4": "crash",
            "w_hang.mp4": "timeout",
        }
        assert "SIGSEGV" in reasons(manifest)["w_crash.mp4"]
        assert "more than 4 s" in reasons(manifest)["w_hang.mp4"]
        assert "KeyError: 'blendshape'" in reasons(manifest)["w_bug.mp4"]
        assert "w_crash.mp4" in (tmp_path / "d/report.html").read_text()
        assert any("left" in line for line in lines)
        # They are remembered until a retry is requested.
        assert run(given, tmp_path / "d").hash == manifest.hash
        retried = run(given, tmp_path / "d", options=BuildOptions(workers=0, retry_failed=True))
        assert retried.failed == []

    def test_submitit_makes_the_same_dataset(self, videos: list[Path], tmp_path: Path) -> None:
        pytest.importorskip("submitit")
        whole = run(videos, tmp_path / "whole")
        options = BuildOptions(workers=0, engine="submitit", jobs=2, slurm={"cluster": "debug"})
        lines: list[str] = []
        assert run(videos, tmp_path / "d", options=options, log=lines.append).hash == whole.hash
        assert lines[0].startswith("2 jobs for 3 shards")

    def test_failed_jobs_are_told_and_the_others_kept(
        self, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("submitit")
        options = BuildOptions(workers=0, engine="submitit", jobs=3, slurm={"cluster": "debug"})
        finish = ShardWriter.finish

        def full_disk(writer: ShardWriter, *arguments: Any) -> ShardInfo:
            if writer.name.startswith(("v2", "v4")):
                raise OSError(28, "No space left on device")
            return finish(writer, *arguments)

        monkeypatch.setattr(ShardWriter, "finish", full_disk)
        with pytest.raises(RuntimeError, match=r"2 jobs failed.*No space left"):
            run(videos, tmp_path / "d", options=options)
        monkeypatch.undo()
        lines: list[str] = []
        run(videos, tmp_path / "d", log=lines.append)
        assert len([line for line in lines if "kept from an earlier run" in line]) == 1

    @pytest.mark.parametrize("engine", ["submitit", "ray"])
    def test_missing_engine_is_named(
        self, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
    ) -> None:
        monkeypatch.setitem(sys.modules, engine, None)
        with pytest.raises(ImportError, match=r"pip install 'rome-lightning\["):
            run(videos, tmp_path / "d", options=BuildOptions(engine=engine))


class TestDisk:
    @pytest.mark.parametrize("limit", [100, 4000, 30_000])
    def test_full_disk_ends_the_run_and_the_rerun_completes_it(
        self, videos: list[Path], tmp_path: Path, limit: int
    ) -> None:
        run(videos, tmp_path / "whole")
        output = tmp_path / "d"
        output.mkdir()
        with largest_file(limit), pytest.raises(OSError, match=r"cannot write to .* any more|File too large"):
            run(videos, output)
        assert not (output / "manifest.json").exists()
        assert not list(output.rglob("*.tmp"))
        run(videos, output)
        assert files(output) == files(tmp_path / "whole")

    def test_folder_that_cannot_be_written(self, videos: list[Path], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        # /proc refuses new files to everybody, root included.
        for output in (tmp_path / "file", tmp_path / "file" / "d", Path("/proc/self")):
            with pytest.raises(ValueError, match=r"cannot write to output .*choose another folder"):
                run(videos, output)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than this many bytes to a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestStrangeVideos:
    def test_each_is_listed_or_read_right(self, videos: list[Path], tmp_path: Path) -> None:
        folder = tmp_path / "strange"
        folder.mkdir()
        (folder / "empty.mp4").touch()
        (folder / "text.mp4").write_text("no video")
        (folder / "cut off.mp4").write_bytes(videos[0].read_bytes()[:3000])
        write_sound(folder / "sound.mp4")
        write_clip(folder / "three frames.mp4", 8, num_frames=3)
        shutil.copy(videos[0], folder / "copy.mp4")
        shutil.copy(videos[0], folder / "copy 2.mp4")
        manifest = run([folder], tmp_path / "d")
        found = reasons(manifest)
        assert set(found) == {path.name for path in folder.iterdir()} - {"copy 2.mp4"}
        assert found["empty.mp4"] == "cannot be read: the file is empty (0 bytes)"
        assert "not a video" in found["text.mp4"]
        assert found["cut off.mp4"].startswith("cut off.mp4 is damaged after 0 frames")
        assert "only audio" in found["sound.mp4"]
        assert found["three frames.mp4"].startswith("2 of 3 frames can be used, needs 4")
        assert found["copy.mp4"] == "same content as copy 2.mp4, which is used"
        assert [s.clips for s in manifest.shards] == [2]

    def test_names_of_any_letters_and_length(self, tmp_path: Path) -> None:
        names = ["张伟 说话", "李娜 说话", "é" * 110, "x" * 200, "x" * 199 + "y", "a.b.c", "-rf", "'\"<b>&"]
        folder = tmp_path / "names"
        folder.mkdir()
        for seed, name in enumerate(names):
            write_clip(folder / f"{name}.mp4", seed, num_frames=6)
        manifest = run([folder], tmp_path / "d", dataclasses.replace(CONFIG, val_ratio=0.0))
        assert manifest.failed == []
        assert {identity for shard in manifest.shards for identity in shard.identities} == set(names)
        clips = readers(manifest, tmp_path / "d")
        assert {header["source"] for _, _, header in clips} == {f"{name}.mp4" for name in names}
        assert len({key for key, _, _ in clips}) == len(names)

    def test_variable_frame_rate_keeps_real_times(self, tmp_path: Path) -> None:
        # Four frames in a third of a second, then one every half second.
        times = [0.0, 0.1, 0.2, 0.3, 0.8, 1.3, 1.8, 2.3, 2.8, 3.3, 3.8, 4.3]
        video = write_at(tmp_path / "variable.mp4", times)
        config = dataclasses.replace(CONFIG, fps=4.0)
        clips = readers(run([video], tmp_path / "d", config), tmp_path / "d")
        numbers = [number for _, arrays, _ in clips for number in arrays["frame_number"].tolist()]
        # The first frame of each quarter of a second; to the tracker, the third of these is a profile.
        assert numbers == [0, 3, 5, 6, 7, 8, 9, 10, 11]
        for _, arrays, header in clips:
            np.testing.assert_allclose(arrays["timestamp"], np.take(times, arrays["frame_number"]), atol=2e-3)
            assert float(header["fps"]) < 4

    def test_rotated_phone_video_is_upright(self, videos: list[Path], tmp_path: Path) -> None:
        plain = run(videos[:1], tmp_path / "plain")
        turned = turn_quarter(videos[0], tmp_path / "turned.mp4")
        manifest = run([turned], tmp_path / "d")
        (_, _, header), *_ = readers(manifest, tmp_path / "d")
        (_, _, before), *_ = readers(plain, tmp_path / "plain")
        assert (header["source_width"], header["source_height"]) == (
            before["source_height"],
            before["source_width"],
        )


class TestShotsAndPeople:
    def write(self, path: Path, *shots: list[np.ndarray]) -> list[Path]:
        return [write_video(path, [frame for shot in shots for frame in shot], fps=12)]

    def test_cut_of_one_person_gives_clips_of_one_shot_each(self, tmp_path: Path) -> None:
        other_room = [frame[:, ::-1] // 2 + np.uint8(20) for frame in coloured(RED, 10, seed=3)]
        video = self.write(tmp_path / "a.mp4", coloured(RED, 12), other_room)
        manifest = run(video, tmp_path / "d", CHECKED)
        clips = readers(manifest, tmp_path / "d")
        numbers = [arrays["frame_number"].tolist() for _, arrays, _ in clips]
        assert sorted(number for frames in numbers for number in frames) == [
            0,
            1,
            *range(3, 12),
            12,
            13,
            *range(15, 22),
        ]
        for frames in numbers:
            assert max(frames) < 12 or min(frames) >= 12
        assert {header["identity"] for _, _, header in clips} == {"a"}

    def test_cut_that_only_the_face_shows(self, tmp_path: Path) -> None:
        video = self.write(
            tmp_path / "a.mp4", coloured(RED, 8), coloured((180, 60, 60), 7), coloured(RED, 4, seed=2)
        )
        manifest = run(video, tmp_path / "d", CHECKED, make_tracker=JumpTracker)
        numbers = [arrays["frame_number"].tolist() for _, arrays, _ in readers(manifest, tmp_path / "d")]
        before, second = [*range(2), *range(3, 8), *range(15, 19)], [8, 9, *range(11, 15)]
        assert sorted(number for frames in numbers for number in frames) == sorted(before + second)
        assert all(set(frames) <= set(before) or set(frames) <= set(second) for frames in numbers)

    def test_one_person_under_two_names_is_told(self, tmp_path: Path) -> None:
        videos = self.write(tmp_path / "a.mp4", coloured(RED, 9))
        videos += self.write(tmp_path / "b.mp4", coloured(RED, 9, seed=1))
        videos += self.write(tmp_path / "c.mp4", coloured(BLUE, 9))
        lines: list[str] = []
        config = dataclasses.replace(CHECKED, val_identities=["b"])
        run(videos, tmp_path / "d", config, log=lines.append)
        warnings = [line for line in lines if line.startswith("warning")]
        assert len(warnings) == 1
        assert "a.mp4 and b.mp4 look like one person" in warnings[0]
        assert "in different splits" in (tmp_path / "d/report.html").read_text()
        run(videos, tmp_path / "d", CHECKED, log=lines.append, identities={"a": "anna", "b": "anna"})
        assert len([line for line in lines if line.startswith("warning")]) == 1

    def test_other_person_after_a_cut_is_skipped(self, tmp_path: Path) -> None:
        video = self.write(tmp_path / "a.mp4", coloured(RED, 9), coloured(BLUE, 15), coloured(RED, 9))
        manifest = run(video, tmp_path / "d", CHECKED)
        shard, *_ = manifest.shards
        report = json.loads((tmp_path / "d" / f"{shard.name}.report.json").read_text())["videos"][0]
        assert report["rejected"] == {"another person": 14, "profile": 2}
        # The red shot continues after the blue one.
        assert shard.frames == 17
        assert report["best_rejected"]["reason"] in ("another person", "profile")

    @pytest.mark.parametrize(("many", "few"), [(RED, BLUE), (BLUE, RED)])
    def test_person_of_most_frames_is_kept(
        self, tmp_path: Path, many: tuple[int, int, int], few: tuple[int, int, int]
    ) -> None:
        # Both shots have more frames than faces are measured in.
        video = self.write(tmp_path / "a.mp4", coloured(few, 12), coloured(many, 20))
        manifest = run(video, tmp_path / "d", CHECKED)
        assert sum(shard.frames for shard in manifest.shards) == 19

    def test_person_nobody_can_verify_after_a_cut_is_skipped(self, tmp_path: Path) -> None:
        video = self.write(tmp_path / "a.mp4", coloured(RED, 12), coloured((60, 60, 60), 12))
        manifest = run(video, tmp_path / "d", CHECKED)
        assert [shard.frames for shard in manifest.shards] == [11]

    def test_two_people_without_a_cut(self, tmp_path: Path) -> None:
        # A slow transition: no two frames differ enough for a cut.
        shades = [frame for i in range(24) for frame in coloured((150 - 5 * i, 30, 30 + 5 * i), 1, seed=1)]
        video = self.write(tmp_path / "a.mp4", shades)
        manifest = run(video, tmp_path / "d", CHECKED)
        report = json.loads((tmp_path / "d" / f"{manifest.shards[0].name}.report.json").read_text())
        assert 8 <= report["videos"][0]["rejected"]["another person"] <= 13

    def test_flash_does_not_end_a_shot(self, tmp_path: Path) -> None:
        flash = [np.full((80, 96, 3), 250, np.uint8)]
        video = self.write(tmp_path / "a.mp4", coloured(RED, 6), flash, coloured(RED, 6))
        manifest = run(video, tmp_path / "d", CHECKED)
        (_, first, _), (_, second, _) = readers(manifest, tmp_path / "d")
        assert [*first["frame_number"], *second["frame_number"]] == [0, 1, 3, 4, 5, *range(7, 13)]

    def test_only_short_shots(self, tmp_path: Path) -> None:
        video = self.write(tmp_path / "a.mp4", coloured(RED, 3), coloured(BLUE, 3), coloured(GREEN, 3))
        with pytest.raises(ValueError, match=r"0 of 9 frames can be used.*shot too short 9"):
            run(video, tmp_path / "d", CHECKED)


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_at(path: Path, times_s: list[float]) -> Path:
    """Frames at the given times."""
    texture = np.random.default_rng(0).integers(0, 80, (80, 96, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time_s in enumerate(times_s):
            frame = VideoFrame.from_ndarray((texture + 4 * index).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn_quarter(video: Path, path: Path) -> Path:
    """A copy whose track header asks for a rotation by 90 degrees, as phones write it."""
    data = bytearray(video.read_bytes())
    # The display matrix of ISO 14496-12.
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
