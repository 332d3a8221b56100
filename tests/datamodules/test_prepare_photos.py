"""From photographs to a dataset, with a tracker that finds a square instead of a face."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tracker import BLUE, GREEN, RED, PhotoTracker, colour_embedder, coloured, write_clip
from PIL import Image

from datamodules.manifest import Manifest
from datamodules.plan import EvaluationPlan, PlanClip, TrainingPlan
from datamodules.prepare import PrepareConfig, prepare
from datamodules.prepare.inputs import expand_inputs
from datamodules.reading import ClipReader
from datamodules.repairing import rebuild_shards
from datamodules.strategies import PairChoice
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.media.pictures import read_image

CONFIG = PrepareConfig(image_size=64, videos_per_shard=2, min_identity_similarity=None)


def write_photo(path: Path, colour: tuple[int, int, int] = RED, seed: int = 0, turned: bool = False) -> Path:
    """An image of one colour, 96 x 80 pixels; ``turned``: rotated, with the EXIF entry to undo it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(coloured(colour, 1, seed)[0])
    exif = Image.Exif()
    if turned:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    picture.save(path, exif=exif)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photographs of anna, one of bert, one of carl."""
    folder = tmp_path / "photos"
    write_photo(folder / "anna/smile.png", seed=1)
    write_photo(folder / "anna/neutral.png", seed=2, turned=True)
    write_photo(folder / "bert/b.jpg", seed=3)
    write_photo(folder / "carl.webp", seed=4)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run(inputs: Path, output: Path, log: list[str] | None = None, **options: Any) -> Manifest:
    lines = log if log is not None else []
    changes = {
        name: options.pop(name) for name in list(options) if name in PrepareConfig.__dataclass_fields__
    }
    return prepare(
        [inputs], output, dataclasses.replace(CONFIG, **changes), log=lines.append,
        make_tracker=PhotoTracker, **options,
    )  # fmt: skip


def clips_of(manifest: Manifest, folder: Path) -> dict[str, dict[str, Any]]:
    """Tensors and header strings by key."""
    reader = ClipReader(manifest, folder, "train")
    return {reader.key(i): {**reader.meta(i)[0], **reader.meta(i)[1]} for i in range(len(reader))}


def test_the_photographs_of_a_person_are_one_clip(photos: Path, tmp_path: Path) -> None:
    manifest = run(photos, tmp_path / "d", identity_from="folder")
    assert manifest.failed == []
    clips = clips_of(manifest, tmp_path / "d")
    assert {key: len(clip["valid"]) for key, clip in clips.items()} == {
        "anna-000": 2,
        "bert-000": 1,
        "carl-000": 1,
    }
    anna = clips["anna-000"]
    assert anna["identity"] == "anna"
    assert anna["source"] == "anna/neutral.png and 1 more"
    assert anna["frame_number"].tolist() == [0, 1]
    assert anna["bbox"].tolist() == [[-10, 5, 60, 75]] * 2
    # Sorted by name; the rotated image is stored upright.
    reader = ClipReader(manifest, tmp_path / "d", "train")
    for frame, seed in ((0, 2), (1, 1)):
        upright = coloured(RED, 1, seed)[0]
        stored = reader.frame(0, frame).image
        # The crop begins 10 pixels left of and 5 below the picture's corner and has a side of 70.
        assert np.abs(stored[8:56, 16:56].mean() - upright[14:66, 8:51].mean()) < 2
        expected = Image.fromarray(upright[5:75, :60]).resize((55, 64), Image.Resampling.BOX)
        assert np.abs(stored[:, 9:].astype(int) - np.asarray(expected)).mean() < 12
    assert (tmp_path / "d/report.html").exists()


def test_a_csv_names_the_people(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "identities.csv"
    table.write_text("path,identity\nanna/smile.png,eve\nbert/b.jpg,eve\ncarl.webp,carl\nlost.jpg,eve\n")
    manifest = run(table, tmp_path / "d", root=photos)
    clips = clips_of(manifest, tmp_path / "d")
    assert {key: len(clip["valid"]) for key, clip in clips.items()} == {"eve-000": 2, "carl-000": 1}
    assert [item["input"] for item in manifest.failed] == ["lost.jpg"]


def test_without_names_each_photograph_is_a_person(photos: Path, tmp_path: Path) -> None:
    clips = clips_of(run(photos, tmp_path / "d"), tmp_path / "d")
    assert sorted(clip["identity"] for clip in clips.values()) == [
        "anna/neutral",
        "anna/smile",
        "bert/b",
        "carl",
    ]


def test_what_cannot_be_tracked_is_skipped_and_counted(photos: Path, tmp_path: Path) -> None:
    write_photo(photos / "anna/blue.png", BLUE)
    write_photo(photos / "dora/blue.png", BLUE, seed=9)
    log: list[str] = []
    manifest = run(photos, tmp_path / "d", log, identity_from="folder")
    assert clips_of(manifest, tmp_path / "d")["anna-000"]["frame_number"].tolist() == [1, 2]
    (failure,) = manifest.failed
    assert failure["input"] == "dora/blue.png"
    assert failure["reason"] == "no face found in the photo"
    assert any("2 of 3 frames in 1 clips (rejected: 1 photograph cannot be tracked)" in line for line in log)


def test_another_person_among_the_photographs_is_skipped(photos: Path, tmp_path: Path) -> None:
    write_photo(photos / "anna/stranger.png", GREEN)
    manifest = run(
        photos,
        tmp_path / "d",
        identity_from="folder",
        make_embedder=colour_embedder,
        min_identity_similarity=0.4,
    )
    assert len(clips_of(manifest, tmp_path / "d")["anna-000"]["valid"]) == 2


def test_a_second_run_keeps_everything_and_repair_makes_it_again(photos: Path, tmp_path: Path) -> None:
    manifest = run(photos, tmp_path / "d", identity_from="folder")
    log: list[str] = []
    assert run(photos, tmp_path / "d", log, identity_from="folder").hash == manifest.hash
    assert all("kept from an earlier run" in line for line in log)
    damaged = [shard for shard in manifest.shards if "anna" in shard.identities]
    (tmp_path / "d" / f"{damaged[0].name}.tar").write_bytes(b"")
    left = rebuild_shards(tmp_path / "d", manifest, damaged, [photos], log.append, make_tracker=PhotoTracker)
    assert left == []
    # Another photograph of anna is another anna.
    write_photo(photos / "anna/third.png", seed=7)
    assert run(photos, tmp_path / "d", identity_from="folder").hash != manifest.hash


def test_training_pairs_of_one_and_two_photographs(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "d", identity_from="folder")
    data = TalkingHeadDataModule(
        tmp_path / "d", image_size=32, batch_size=1, pairs_per_epoch=6, num_driving=2, val_split="seen"
    )
    for raw in data.train_dataloader():
        batch = data.on_after_batch_transfer(raw, 0)
        same = [(batch.source.image[0] - target).abs().max() == 0 for target in batch.target.image]
        assert same == [batch.clips[0] != "anna-000"] * 2


@pytest.mark.parametrize("strategy", ["random", "min_gap", "yaw_balanced"])
def test_a_clip_of_one_frame_drives_itself(strategy: str) -> None:
    plan = TrainingPlan((PlanClip(0, (4,)),), seed=0, pairs_per_epoch=3, choice=PairChoice(strategy))  # type: ignore[arg-type]
    pair = plan.pair(0, 1)
    assert (pair.source, pair.drivers) == (4, (4,))
    clips = [PlanClip(0, (4,)), PlanClip(0, (1, 2))]
    pairs = EvaluationPlan(clips, None, 8)
    # Where others have real pairs, a reconstruction would only raise the score.
    assert [(pair.clip, pair.source, pair.drivers) for pair in pairs] == [(1, 1, (2,))]
    pairs = EvaluationPlan(clips[:1], None, 8)
    assert [(pair.clip, pair.source, pair.drivers) for pair in pairs] == [(0, 4, (4,))]
    with pytest.raises(ValueError, match="clip 0 has no usable frame"):
        TrainingPlan((PlanClip(0, ()),), seed=0, pairs_per_epoch=3)


def test_pictures_beside_videos_are_previews(photos: Path) -> None:
    write_clip(photos / "video.mp4", 0)
    found, _ = expand_inputs([photos])
    assert [video.name for video in found] == ["video.mp4"]
    write_photo(photos / "video.jpg")
    (photos / "ids.txt").write_text("video\ncarl\n")
    found, _ = expand_inputs([photos / "ids.txt"])
    assert [video.name for video in found] == ["video.mp4", "carl.webp"]


def test_heic_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "phone.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"needs pillow-heif: pip install 'rome-lightning\[heic\]'"):
        read_image(path)
