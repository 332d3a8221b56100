"""Changing splits or identities does not track anything again."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from fake_tracker import SquareTracker, write_clip
from small_prepare import CONFIG, run

from datamodules.prepare import PrepareConfig, prepare
from datamodules.prepare.inputs import splits_of
from datamodules.reading import ClipReader
from datamodules.verifying import verify

PEOPLE = ("anna", "bert", "cleo")


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, name in enumerate(PEOPLE):
        write_clip(folder / f"{name}.mp4", index)
    return sorted(folder.glob("*.mp4"))


def _tar_hashes(manifest, folder: Path) -> list[str]:
    return [hashlib.sha256((folder / f"{s.name}.tar").read_bytes()).hexdigest() for s in manifest.shards]


def test_another_split_tracks_nothing_and_gives_the_bytes_of_a_fresh_run(videos, tmp_path):
    run(videos, tmp_path / "d")
    SquareTracker.calls = 0
    log: list[str] = []
    again = run(videos, tmp_path / "d", log, val_identities=["bert"])
    assert SquareTracker.calls == 0
    assert "3 videos are reused from shards of an earlier run with the same settings" in log
    assert [shard.identities for shard in again.split("val")] == [["bert"]]
    fresh = run(videos, tmp_path / "fresh", val_identities=["bert"])
    assert _tar_hashes(again, tmp_path / "d") == _tar_hashes(fresh, tmp_path / "fresh")
    assert not [problems for _, problems in verify(tmp_path / "d", again) if problems]


def test_another_name_of_a_person_tracks_nothing_and_is_in_every_clip(videos, tmp_path):
    run(videos, tmp_path / "d")
    SquareTracker.calls = 0
    config = dataclasses.replace(CONFIG, val_identities=["cleo"])
    manifest = prepare(
        videos, tmp_path / "d", config, {"bert": "anna"}, log=lambda line: None, make_tracker=SquareTracker
    )
    assert SquareTracker.calls == 0
    reader = ClipReader(manifest, tmp_path / "d", "train")
    assert {reader.meta(index)[1]["identity"] for index in range(len(reader))} == {"anna"}


def test_another_setting_of_the_tracking_tracks_again(videos, tmp_path):
    run(videos, tmp_path / "d")
    SquareTracker.calls = 0
    run(videos, tmp_path / "d", min_frames=5)
    assert SquareTracker.calls == 3


def test_another_video_under_an_old_name_is_tracked(videos, tmp_path):
    run(videos, tmp_path / "d")
    write_clip(videos[0], 7)
    SquareTracker.calls = 0
    run(videos, tmp_path / "d")
    assert SquareTracker.calls == 1


def _counts(num_people: int, **options) -> dict[str, int]:
    splits = splits_of([f"p{index}" for index in range(num_people)], PrepareConfig(**options))
    return {split: list(splits.values()).count(split) for split in ("train", "val", "test")}


@pytest.mark.parametrize(("num_people", "num_val"), [(1, 0), (5, 0), (6, 2), (8, 2)])
def test_two_people_are_kept_for_validation_where_there_are_enough(num_people, num_val):
    assert _counts(num_people) == {"train": num_people - num_val, "val": num_val, "test": 0}


def test_a_tenth_of_many_people_is_kept():
    # 2,000 draws at 10 %: three standard errors are 2 %.
    assert abs(_counts(2000)["val"] / 2000 - 0.1) < 0.02


def test_who_lists_people_or_a_ratio_gets_those():
    assert _counts(8, val_identities=["p3"])["val"] == 1
    assert _counts(8, val_ratio=0.0)["val"] == 0
