"""Scoring without people held out for validation, and when no person can be driven by another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from tiny_protocol import PROTOCOLS
from tiny_run import write_synthetic_dataset

from datamodules.evaluation import StoredClips
from datamodules.manifest import Manifest
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.evaluation.pairs import impossible_tasks, pairs_of
from rome_lightning.evaluation.protocol import load_protocol
from rome_lightning.workflows.reporter import Reporter
from rome_lightning.workflows.scored_clips import stored_clips

DEMO = PROTOCOLS / "demo.yaml"
SIZE = 64


@pytest.fixture(scope="module")
def protocol():
    return dataclasses.replace(load_protocol(DEMO), resolution=SIZE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_synthetic_dataset(tmp_path_factory.mktemp("dataset"), num_frames=10)


@pytest.fixture
def train_only(dataset, tmp_path):
    """The same dataset without its validation split."""
    manifest = Manifest.load(dataset)
    folder = tmp_path / "train_only"
    folder.mkdir()
    for path in dataset.glob("train-*"):
        (folder / path.name).symlink_to(path)
    dataclasses.replace(manifest, shards=manifest.split("train")).save(folder / "manifest.json")
    return folder


def _run(folder: Path, holdout_ratio: float) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"data": {"init_args": {"holdout_ratio": holdout_ratio}}})
    )
    return folder


class Listener(Reporter):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def test_a_dataset_with_the_split_is_scored_on_it(dataset, protocol):
    listener = Listener()
    clips = stored_clips(dataset, protocol, None, None, listener)
    assert [clip.identity for clip in clips.clips] == ["person-2"]
    assert listener.warnings == []


@pytest.mark.parametrize(
    ("ratio", "frames", "said"), [(0.3, (7, 8, 9), "which training held out"), (0.0, (8, 9), "may have seen")]
)
def test_without_it_the_last_frames_are_scored_and_it_is_said(
    train_only, protocol, tmp_path, ratio, frames, said
):
    listener = Listener()
    clips = stored_clips(train_only, protocol, None, _run(tmp_path / "run", ratio), listener)
    assert {clip.frames for clip in clips.clips} == {frames}
    (shown,) = listener.warnings
    assert "has no split 'val'" in shown
    assert said in shown


def test_a_split_that_was_asked_for_is_not_replaced(train_only, protocol):
    with pytest.raises(ValueError, match="no clips in split 'val', only in train"):
        stored_clips(train_only, protocol, "val", None, Listener())


def test_one_person_is_scored_without_the_tasks_that_need_two(dataset, protocol):
    one = StoredClips(dataset, "val", SIZE).clips
    assert list(impossible_tasks(protocol, one)) == ["cross"]
    assert {pair.task for pair in pairs_of(protocol, DEMO, one)} == {"self", "temporal"}
    two = StoredClips(dataset, "train", SIZE).clips
    assert not impossible_tasks(protocol, two)
    assert {pair.task for pair in pairs_of(protocol, DEMO, two)} == {"self", "cross", "temporal"}


def test_a_protocol_that_only_needs_two_people_says_how_many_are_scored(dataset, protocol):
    only_cross = dataclasses.replace(protocol, tasks={"cross": protocol.tasks["cross"]})
    with pytest.raises(ValueError, match="needs two people, but the scored clips show 1"):
        pairs_of(only_cross, DEMO, StoredClips(dataset, "val", SIZE).clips)


def test_training_knows_whether_it_can_validate(dataset, train_only):
    assert TalkingHeadDataModule(dataset, image_size=SIZE).validates
    assert not TalkingHeadDataModule(train_only, image_size=SIZE).validates
    seen = TalkingHeadDataModule(train_only, image_size=SIZE, holdout_ratio=0.2, val_split="seen")
    assert seen.validates
