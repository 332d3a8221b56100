"""From videos to a dataset, with a tracker that finds a square instead of a face."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fake_tracker import SquareTracker, write_clip
from small_prepare import run

from datamodules.manifest import Manifest
from datamodules.prepare import BuildOptions, PrepareConfig
from datamodules.prepare.inputs import VideoFile, expand_inputs, hash_inputs, name_inputs, splits_of
from datamodules.prepare.statistics import head_angles, sharpness
from datamodules.reading import ClipReader
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.cli import prepare as cli
from rome_lightning.cli.main import main as rome
from rome_lightning.geometry import project
from rome_lightning.head import load_head
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.types import HeadParams, Region


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, name in enumerate(("anna 1", "anna 2", "bert")):
        write_clip(folder / f"{name}.mp4", index)
    (folder / "notes.txt").write_text("not a video")
    return sorted(folder.glob("*.mp4"))


def hashes(folder: Path) -> dict[str, str]:
    return {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.iterdir())
        if not f.name.startswith(".")
    }


def test_content_of_the_dataset(videos: list[Path], tmp_path: Path) -> None:
    manifest = run(videos, tmp_path / "d")
    assert [(s.split, s.clips, s.frames) for s in manifest.shards] == [("train", 4, 22), ("train", 2, 11)]
    assert manifest.failed == []
    reader = ClipReader(manifest, tmp_path / "d", "train")
    assert [reader.key(i) for i in range(6)] == [
        f"{video}-{part:03d}" for video in ("anna_1", "anna_2", "bert") for part in range(2)
    ]
    arrays, header = reader.meta(0)
    # Frame 2 is rejected; the 11 others make clips of 6 and 5 frames.
    assert arrays["frame_number"].tolist() == [0, 1, 3, 4, 5, 6]
    np.testing.assert_allclose(arrays["timestamp"], arrays["frame_number"] / 12, atol=1e-3)
    np.testing.assert_allclose(arrays["camera"][:, 1], arrays["frame_number"])
    np.testing.assert_allclose(arrays["landmarks"][:, 0, 0], 10 + arrays["frame_number"])
    assert arrays["landmarks"].shape == (6, 478, 2)
    assert arrays["bbox"][0].tolist() == [-10, 5, 60, 75]
    assert header["source"] == "anna 1.mp4"
    assert header["source_sha256"] == hashlib.sha256(videos[0].read_bytes()).hexdigest()
    assert (header["identity"], header["head"], header["dataset"]) == (
        "anna 1",
        "open-head-1",
        "talking-heads",
    )
    frame = reader.frame(0, 3)
    assert frame.image.shape == (64, 64, 3)
    assert np.abs(frame.matte.astype(int) - 128).max() <= 1
    # The crop begins 10 of 70 pixels left of the video: 9.1 of 64.
    assert (frame.regions[:, :9] == Region.OUTSIDE).all()
    assert (frame.regions[:, 9:] == 3).all()
    data = TalkingHeadDataModule(tmp_path / "d", image_size=32, batch_size=2, pairs_per_epoch=4)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.source.image.shape == (2, 3, 32, 32)
    assert set(batch.source.regions.unique().tolist()) == {3, int(Region.OUTSIDE)}


def test_rerun_keeps_finished_shards_and_gives_the_same_bytes(videos: list[Path], tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    run(videos, first)
    before, SquareTracker.calls = hashes(first), 0
    log: list[str] = []
    run(videos, first, log)
    assert SquareTracker.calls == 0
    assert len([line for line in log if "kept from an earlier run" in line]) == 2
    assert hashes(first) == before
    run(videos, second)
    assert hashes(second) == before


def test_interrupted_run_resumes(videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track = SquareTracker.track

    def killed(self: SquareTracker, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        if SquareTracker.calls == 2:
            raise KeyboardInterrupt
        return track(self, frames, fps)

    SquareTracker.calls = 0
    monkeypatch.setattr(SquareTracker, "track", killed)
    with pytest.raises(KeyboardInterrupt):
        run(videos, tmp_path / "d")
    assert not (tmp_path / "d/manifest.json").exists()
    assert not [f for f in (tmp_path / "d").rglob("*.tmp")]
    monkeypatch.setattr(SquareTracker, "track", track)
    SquareTracker.calls = 0
    run(videos, tmp_path / "d")
    assert SquareTracker.calls == 1
    run(videos, tmp_path / "whole")
    assert hashes(tmp_path / "d") == hashes(tmp_path / "whole")


def test_other_options_make_other_shards(videos: list[Path], tmp_path: Path) -> None:
    first = run(videos, tmp_path / "d")
    second = run(videos, tmp_path / "d", min_frames=5)
    assert {s.name for s in first.shards}.isdisjoint({s.name for s in second.shards})
    assert first.hash != second.hash
    # Neither the split nor the licence is a property of the clips' content.
    assert run(videos, tmp_path / "d", min_frames=5, licence="CC0").shards == second.shards


def test_another_head_of_the_same_name_makes_other_shards(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(videos, tmp_path / "d")
    head = load_head("open")
    head.joint_template.add_(1e-3)
    monkeypatch.setattr("datamodules.prepare.pipeline.load_head", lambda name: head)
    second = run(videos, tmp_path / "d")
    assert first.head["name"] == second.head["name"]
    assert {s.name for s in first.shards}.isdisjoint({s.name for s in second.shards})


def test_failures_are_listed_and_the_rest_continues(videos: list[Path], tmp_path: Path) -> None:
    broken = videos[0].with_name("broken.mp4")
    broken.write_bytes(videos[0].read_bytes()[:500])
    short = write_clip(videos[0].with_name("short.mp4"), 7, num_frames=2)
    log: list[str] = []
    manifest = run([*videos, broken, short], tmp_path / "d", log)
    assert [item["input"] for item in manifest.failed] == ["broken.mp4", "short.mp4"]
    assert manifest.failed[1]["reason"] == "no face found in 2 frames"
    assert sum(s.frames for s in manifest.shards) == 33
    assert len([line for line in log if "FAILED" in line]) == 2
    report = (tmp_path / "d/report.html").read_text()
    assert "broken.mp4" in report
    assert "2 videos could not be used" in report
    # On a rerun they are remembered.
    assert run([*videos, broken, short], tmp_path / "d").failed == manifest.failed


def test_everybody_may_be_for_evaluation(videos: list[Path], tmp_path: Path) -> None:
    manifest = run(videos, tmp_path / "d", test_ratio=1.0)
    assert {shard.split for shard in manifest.shards} == {"test"}
    assert (
        cli._splits(manifest)
        == "people: test 3; no training split: score them with `rome evaluate --split test`"
    )
    with pytest.raises(ValueError, match=r"got 0\.5 and 0\.5; for evaluation alone, set test_ratio to 1"):
        run(videos, tmp_path / "d", test_ratio=0.5, val_ratio=0.5)
    with pytest.raises(ValueError, match="must leave identities to train on"):
        run(videos, tmp_path / "d", test_ratio=1.1)


def test_nothing_usable(videos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none of the 3 videos .*11 of 12 frames can be used, needs 12 in a shot"
    ):
        run(videos, tmp_path / "d", min_frames=12)
    with pytest.raises(ValueError, match=r"would upscale it 6\.9 times"):
        run(videos, tmp_path / "d", image_size=480, max_upscale=2.0)
    with pytest.raises(ValueError, match="no usable video is left for training"):
        run(videos, tmp_path / "d", val_identities=["anna 1", "anna 2", "bert"])
    with pytest.raises(ValueError, match="without a video: carl"):
        run(videos, tmp_path / "d", val_identities=["bert", "carl"])


def test_blurred_frames_are_skipped(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = SquareTracker.track

    def one_blurred(self: SquareTracker, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        clip = track(self, frames, fps)
        clip.images[5] = clip.images[5].float().mean((0, 1)).to(torch.uint8)
        return clip

    monkeypatch.setattr(SquareTracker, "track", one_blurred)
    log: list[str] = []
    manifest = run(videos[:1], tmp_path / "d", log)
    assert manifest.shards[0].frames == 10
    assert any("1 blurred, 1 profile" in line for line in log)


def test_sharpness_is_the_mean_squared_laplacian() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    inside = np.zeros((2, 16, 16), dtype=bool)
    inside[:, 4:12, 5:10] = True
    grey = torch.from_numpy(images.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
    laplacian = torch.nn.functional.conv2d(grey[:, None], kernel[None, None])[:, 0]
    expected = laplacian[:, 3:11, 4:9].square().mean((1, 2))
    np.testing.assert_allclose(sharpness(images, inside), expected, rtol=1e-4)


@pytest.mark.parametrize(("axis", "angle", "place"), [(1, 0.4, 0), (0, -0.3, 1), (2, 0.2, 2)])
def test_angles_of_the_head_are_those_of_the_picture(axis: int, angle: float, place: int) -> None:
    head = load_head("open")
    pose = torch.zeros(1, 15)
    # Half by the neck and half by the whole bust.
    pose[:, [axis, 3 + axis]] = angle / 2
    angles = head_angles(pose)[0]
    assert angles[place] == pytest.approx(np.degrees(abs(angle)), abs=0.01)
    assert np.abs(np.delete(angles, place)).max() < 0.01
    neutral = HeadParams.neutral(1, head.num_shape, head.num_expression)
    turned = dataclasses.replace(neutral, global_pose=pose[:, :3], neck_pose=pose[:, 3:6])
    before, after = (
        project(head.to_world(head.landmarks(head(params)), params), params.camera, (256, 256))[0]
        for params in (neutral, turned)
    )
    left_eye, right_eye, nose = 263, 33, 1
    if place == 0:
        assert after[nose, 0] > before[nose, 0] + 5, "to the right of the picture"
    elif place == 1:
        assert after[nose, 1] < before[nose, 1] - 5, "up"
    else:
        assert after[left_eye, 1] < after[right_eye, 1] - 5, "counter-clockwise"


class TestInputs:
    def test_folders_and_missing_files(self, videos: list[Path], tmp_path: Path) -> None:
        assert [video.path for video in expand_inputs([videos[0].parent])[0]] == videos
        with pytest.raises(FileNotFoundError, match="no video at"):
            expand_inputs([tmp_path / "nowhere.mp4"])
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="has no video"):
            expand_inputs([tmp_path / "empty"])

    def test_keys_and_identities(self, videos: list[Path], tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        same_name = write_clip(other / "bert.mp4", 9)
        copy = other / "copy.mp4"
        copy.write_bytes(videos[0].read_bytes())
        files = [VideoFile(path, path.name) for path in (*videos, same_name, copy)]
        hashes, _ = hash_inputs(files, tmp_path)
        inputs, copies = name_inputs(files, {"anna 1": "anna", "anna 2": "anna"}, hashes)
        assert copies == [{"input": "copy.mp4", "reason": "same content as anna 1.mp4, which is used"}]
        keys = [item.key for item in inputs]
        assert len(inputs) == 4
        assert keys == sorted(keys)
        assert keys[:2] == ["anna_1", "anna_2"]
        assert all(key.startswith("bert_") for key in keys[2:])
        assert [item.identity for item in inputs[:2]] == ["anna", "anna"]
        with pytest.raises(ValueError, match="carl"):
            name_inputs(files, {"carl": "x"}, hashes)

    def test_clip_keys_sort_like_their_videos(self) -> None:
        keys = sorted(["a", "a_0", "a0", "a_b", "ab", "A"])
        clips = [f"{key}-{part:03d}" for key in keys for part in range(3)]
        assert clips == sorted(clips)

    def test_splits_follow_identities_and_never_move(self) -> None:
        config = PrepareConfig(val_ratio=0.2, test_ratio=0.1, val_identities=["p3"], test_identities=["p4"])
        splits = splits_of((f"p{i}" for i in range(2000)), config)
        assert (splits["p3"], splits["p4"]) == ("val", "test")
        counts = {name: list(splits.values()).count(name) for name in ("train", "val", "test")}
        # Five standard deviations of a binomial: 89 for 400 of 2000, 67 for 200.
        assert abs(counts["val"] - 400) < 90
        assert abs(counts["test"] - 200) < 68


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 100}, "multiple of 16"),
        ({"min_frames": 1}, "at least 2"),
        ({"val_ratio": 0.5, "test_ratio": 0.5}, "leave identities"),
        ({"fps": 0.0}, "fps"),
        ({"val_identities": ["a"], "test_identities": ["a"]}, "two splits"),
        ({"min_confidence": 1.5}, "min_confidence"),
        ({"max_yaw": 0.0}, "max_yaw"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareConfig(**changes)


@pytest.mark.parametrize("changes", [{"workers": -1}, {"jobs": 0}, {"video_limit_s": 0.0}])
def test_bad_build_options(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        BuildOptions(**changes)


class TestLists:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name in ("anna/1.mp4", "anna/2.mp4", "bert/1.mov", "carl.mp4", "dora, eve.mp4"):
            (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / name).write_text(name)
        return tmp_path / "root"

    def expand(self, path: Path, **options: Any) -> tuple[list[tuple[str, str | None]], list[dict[str, str]]]:
        videos, missing = expand_inputs([path], **options)
        assert all(video.path.is_file() for video in videos)
        return [(video.name, video.identity) for video in videos], missing

    def test_ids_paths_folders_and_people(self, root: Path, tmp_path: Path) -> None:
        file = tmp_path / "ids.txt"
        file.write_text("# a comment\n\nanna\nbert/1\nbert/1.mov\tBert\ncarl\tKarl\ndora, eve\nzoe\n")
        videos, missing = self.expand(file, root=root)
        assert videos == [
            ("anna/1.mp4", "anna"),
            ("anna/2.mp4", "anna"),
            ("bert/1.mov", None),
            ("bert/1.mov", "Bert"),
            ("carl.mp4", "Karl"),
            ("dora, eve.mp4", None),
        ]
        assert missing == [{"input": "zoe", "reason": "no video of this name below root"}]

    def test_comma_separated(self, root: Path) -> None:
        file = root / "ids.csv"
        file.write_text('carl,Karl\n"dora, eve",Dora\n', encoding="utf-8-sig")
        assert self.expand(file)[0] == [("carl.mp4", "Karl"), ("dora, eve.mp4", "Dora")]

    def test_people_from_folders(self, root: Path) -> None:
        videos, _ = self.expand(root, identity_from="folder")
        assert dict(videos) == {
            "anna/1.mp4": "anna",
            "anna/2.mp4": "anna",
            "bert/1.mov": "bert",
            "carl.mp4": None,
            "dora, eve.mp4": None,
        }

    def test_lists_without_a_video(self, root: Path, tmp_path: Path) -> None:
        file = tmp_path / "ids.txt"
        file.write_text("carl\n")
        with pytest.raises(FileNotFoundError, match="set --root"):
            self.expand(file)
        file.write_bytes(b"\xff\xfe\x00c")
        with pytest.raises(ValueError, match="not UTF-8"):
            self.expand(file, root=root)

    def test_missing_lines_are_in_the_manifest(self, videos: list[Path], tmp_path: Path) -> None:
        file = videos[0].parent / "ids.tsv"
        file.write_text("anna 1\tanna\nanna 2\tanna\nbert\nnobody\n")
        manifest = run([file], tmp_path / "d")
        assert [item["input"] for item in manifest.failed] == ["nobody"]
        assert sorted({name for shard in manifest.shards for name in shard.identities}) == ["anna", "bert"]

    def test_hashes_are_remembered_until_a_file_changes(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files, _ = expand_inputs([root])
        first, _ = hash_inputs(files, tmp_path)
        read: list[Path] = []
        monkeypatch.setattr("datamodules.prepare.inputs.file_sha256", lambda path: read.append(path) or "new")
        assert hash_inputs(files, tmp_path)[0] == first
        files[0].path.write_text("changed")
        assert hash_inputs(files, tmp_path)[0] == {**first, files[0].path: "new"}
        assert read == [files[0].path]


class TestCommand:
    @pytest.fixture(autouse=True)
    def fake_tracker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datamodules.prepare.pipeline.default_tracker", SquareTracker)
        monkeypatch.setattr("datamodules.prepare.pipeline.resolve", lambda name: Path(name))

    def arguments(self, videos: list[Path], output: Path) -> list[str]:
        options = ["--image_size=64", "--fps=null", "--frames_per_clip=8", "--min_frames=4"]
        options += ["--min_identity_similarity=null", "--workers=0"]
        return [*map(str, videos), "--output", str(output), *options]

    def test_makes_a_dataset(self, videos: list[Path], tmp_path: Path, capsys: Any) -> None:
        assert cli.main(self.arguments([videos[0].parent], tmp_path / "d")) == 0
        assert "6 clips, 33 frames" in capsys.readouterr().out
        assert Manifest.load(tmp_path / "d").image_size == 64

    def test_strict(self, videos: list[Path], tmp_path: Path, capsys: Any) -> None:
        short = write_clip(videos[0].with_name("short.mp4"), 7, num_frames=2)
        arguments = self.arguments([*videos, short], tmp_path / "d")
        assert cli.main(arguments) == 0
        assert "short.mp4 was not used: no face found" in capsys.readouterr().err
        assert cli.main([*arguments, "--strict"]) == 1

    def test_usage_errors_are_one_line(self, capsys: Any) -> None:
        for arguments in ([], ["a.mp4"], ["a.mp4", "--output", "x", "--unknown", "1"]):
            assert rome(["prepare", *arguments]) == 2
            assert capsys.readouterr().err.count("\n") == 1
        assert rome(["prepare", "--help"]) == 0

    def test_shipped_configuration_is_the_default_but_for_the_splits(self, tmp_path: Path) -> None:
        file = Path(__file__).parents[2] / "experiments/data/prepare.yaml"
        options = cli._parser().parse_args(["a.mp4", "--config", str(file)])
        for kind, given in ((PrepareConfig, {"val_ratio": 0.1, "test_ratio": 0.1}), (BuildOptions, {})):
            values = {name: options[name] for name in kind.__dataclass_fields__}
            assert kind(**values) == kind(**given)
            assert set(values) <= set(yaml.safe_load(file.read_text()))
