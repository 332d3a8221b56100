"""Datasets of many shards and clips: joined indices, few open files, tables instead of objects."""

from __future__ import annotations

import dataclasses
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_dataset import SIZE, make_clip, write_dataset

from datamodules.manifest import Manifest, ManifestIndex
from datamodules.plan import (
    ClipTable,
    EvaluationPlan,
    Pair,
    PlanClip,
    PlanGroup,
    TrainingPlan,
)
from datamodules.reading import ClipReader
from datamodules.shards import ShardInfo
from datamodules.sharing import open_shared, share
from datamodules.split_index import remove_old_indices, with_indices
from datamodules.talking_heads import TalkingHeadDataModule
from datamodules.verifying import repair_split_index
from rome_lightning.cli.main import main as rome
from rome_lightning.media.descriptors import OpenFiles


@pytest.fixture
def joined(dataset: Path, tmp_path: Path) -> Path:
    """The small dataset as `rome prepare` writes it now."""
    folder = shutil.copytree(dataset, tmp_path / "joined")
    with_indices(folder, Manifest.load(folder)).save(folder / "manifest.json")
    return folder


def many_shards(folder: Path, count: int) -> Manifest:
    """A dataset whose shards are hard links to a single one."""
    manifest = write_dataset(folder, {"train": [[make_clip("clip", "person", 4)]]})
    (shard,) = manifest.shards
    shards = []
    for number in range(count):
        name = f"train-{number + 1:06d}"
        for kind in ("tar", "frames.npy", "clips.npy", "params.npy"):
            os.link(folder / f"{shard.name}.{kind}", folder / f"{name}.{kind}")
        shards.append(dataclasses.replace(shard, name=name))
    return dataclasses.replace(manifest, shards=shards)


READ_ALL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from datamodules.manifest import Manifest
from datamodules.reading import ClipReader
folder = Path(sys.argv[1])
reader = ClipReader(Manifest.load(folder), folder, "train")
for clip in range(len(reader)):
    reader.frame(clip, 1)
    reader.parameters(clip, [0, 3])
print(len(reader))
"""


@pytest.mark.parametrize(("count", "with_joined"), [(2000, True), (400, False)])
def test_many_shards_under_the_usual_limit_of_open_files(
    tmp_path: Path, count: int, with_joined: bool
) -> None:
    manifest = many_shards(tmp_path, count)
    if with_joined:
        manifest = with_indices(tmp_path, manifest)
    manifest.save(tmp_path / "manifest.json")
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{count}\n", done.stderr


def test_the_files_read_last_stay_open(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        Path(path).write_text(path[-1])
    files = OpenFiles(most=2)
    handles = {path: files.open(path) for path in paths[:2]}
    assert files.get(paths[0]) == handles[paths[0]]
    third = files.open(paths[2])
    assert (files.get(paths[1]), len(files)) == (None, 2)
    assert os.pread(third, 9, 0) == b"c"
    assert os.pread(handles[paths[0]], 9, 0) == b"a"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65536) or soft > 65536


@pytest.mark.parametrize("source", ["first", "typical"])
@pytest.mark.parametrize("split", ["val", "seen"])
def test_joined_indices_give_the_same_batches(dataset: Path, joined: Path, source: str, split: str) -> None:
    def batches(folder: Path) -> list[np.ndarray]:
        data = TalkingHeadDataModule(
            folder, image_size=SIZE, batch_size=4, pairs_per_epoch=16, eval_source=source, val_split=split,
            holdout_ratio=0.3,
        )  # fmt: skip
        loaders = [data.train_dataloader(), data.val_dataloader()]
        return [batch.target.image.numpy() for loader in loaders for batch in loader]

    for ours, theirs in zip(batches(joined), batches(dataset), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_joined_index_is_mapped_and_verified(joined: Path) -> None:
    manifest = Manifest.load(joined)
    reader = ClipReader(manifest, joined, "train")
    for shard, start in zip(reader.shards, (0, 24, 48), strict=True):
        rows = np.load(joined / f"{shard.name}.frames.npy")
        np.testing.assert_array_equal(reader._index.frames[start : start + len(rows)], rows)
    assert len(pickle.dumps(reader)) < 4000
    entry = manifest.index("train")
    assert entry is not None
    path = joined / entry.name
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{entry.name} is damaged: it does not match its sha256"):
        ClipReader(manifest, joined, "train")


def test_verify_and_repair_know_joined_indices(joined: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Manifest.load(joined).index("val")
    assert entry is not None
    before = (joined / entry.name).read_bytes()
    assert rome(["shards", "verify", str(joined)]) == 0
    (joined / entry.name).write_bytes(before[:-5])
    assert rome(["shards", "verify", str(joined)]) == 1
    assert f"{entry.name}: the index of split val is damaged" in capsys.readouterr().out
    assert rome(["shards", "verify", str(joined), "--repair"]) == 0
    assert (joined / entry.name).read_bytes() == before


def test_a_damaged_first_clip_does_not_prevent_a_joined_index(
    joined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.load(joined)
    entry = manifest.index("train")
    assert entry is not None
    before = (joined / entry.name).read_bytes()
    (joined / entry.name).unlink()
    tar = joined / f"{manifest.split('train')[0].name}.tar"
    data = bytearray(tar.read_bytes())
    row = np.load(tar.with_suffix(".clips.npy"))[0]
    data[int(row["meta_position"]) + 20] ^= 1
    tar.write_bytes(data)
    # The shard itself stays damaged: its video is not here.
    assert rome(["shards", "verify", str(joined), "--repair"]) == 1
    assert "index of split train rebuilt" in capsys.readouterr().out
    assert (joined / entry.name).read_bytes() == before


def test_an_index_of_a_split_without_shards_is_not_made(joined: Path) -> None:
    manifest = Manifest.load(joined)
    entry = ManifestIndex("test-00000000.index.safetensors", "test", 1, "0" * 64)
    assert "no clip" in repair_split_index(joined, manifest, entry)


def test_indices_of_earlier_versions_are_removed(joined: Path) -> None:
    manifest = Manifest.load(joined)
    entry = manifest.index("train")
    assert entry is not None
    old = joined / "train-01234567.index.safetensors"
    old.write_bytes(b"x")
    (joined / "mine.index.safetensors").write_bytes(b"x")
    remove_old_indices(joined, manifest)
    assert not old.exists()
    assert (joined / entry.name).exists()
    assert (joined / "mine.index.safetensors").exists()


def test_datasets_of_earlier_versions_keep_their_hash(dataset: Path, joined: Path) -> None:
    import json

    stated = json.loads((dataset / "manifest.json").read_text())
    assert "indices" not in stated
    assert Manifest.load(dataset).hash == stated["hash"]
    assert Manifest.load(joined).hash == json.loads((joined / "manifest.json").read_text())["hash"]
    assert Manifest.load(joined).hash != stated["hash"]


def test_indices_of_earlier_versions_are_no_damage(dataset: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dataset, tmp_path / "old")
    from datamodules.shards import without_typical

    for path in folder.glob("*.clips.npy"):
        path.write_bytes(without_typical(path.read_bytes()))
    assert rome(["shards", "verify", str(folder)]) == 0
    reader = ClipReader(Manifest.load(folder), folder, "train")
    fresh = ClipReader(Manifest.load(dataset), dataset, "train")
    frames = reader.plan_clips().frames_of(0)
    assert reader._index.clips["reserved"].max() == 0
    assert reader.typical_frame(0, frames) == fresh.typical_frame(0, frames)


def _clips(seed: int, count: int) -> list[PlanClip]:
    rng = np.random.default_rng(seed)
    clips = []
    for number in range(count):
        frames = np.flatnonzero(rng.random(12) < 0.7).tolist()
        clips.append(PlanClip(number // 3, tuple(frames) or (3,)))
    return clips


def _order_of_loops(plan: TrainingPlan, clips: list[PlanClip], group: int, round_index: int) -> list[int]:
    """The order of a round, by loops over objects."""
    generator = plan._generator_at(round_index, [0, 0, 0, group])
    first = sum(g.num_clips for g in plan.groups[:group])
    count = plan.groups[group].num_clips if plan.groups else len(clips)
    members: dict[int, list[int]] = {}
    for index in range(first, first + count):
        members.setdefault(clips[index].shard, []).append(index)
    shards = generator.permutation(sorted(members))
    order: list[int] = []
    for start in range(0, len(shards), plan.shards_per_window):
        window = [i for shard in shards[start : start + plan.shards_per_window] for i in members[int(shard)]]
        order += generator.permutation(window).tolist()
    return order


@pytest.mark.parametrize("groups", [(), (PlanGroup(30, 1.0), PlanGroup(70, 2.0))])
def test_tables_give_the_order_that_objects_gave(groups: tuple[PlanGroup, ...]) -> None:
    clips = _clips(0, 100)
    plan = TrainingPlan(clips, 7, 100, groups=groups, shards_per_window=4)
    for group in range(max(len(groups), 1)):
        for round_index in (0, 3):
            expected = _order_of_loops(plan, clips, group, round_index)
            assert plan._order(group, round_index).tolist() == expected
    frames = [clip.frames for clip in clips]
    assert all(p.source in frames[p.clip] for p in (plan.pair(0, i) for i in range(100)))


def _split(frames: tuple[int, ...], ratio: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The training frames of a clip, and those held out."""
    kept = max(len(frames) - round(len(frames) * ratio), min(len(frames), 2))
    return frames[:kept], frames[kept:]


def _pairs(clips: Sequence[PlanClip], targets: Sequence[PlanClip], pairs_per_clip: int) -> list[Pair]:
    """Fixed pairs, clip by clip."""
    pairs = []
    single = all(len(clip.frames) < 2 for clip in clips)
    for index, (clip, allowed) in enumerate(zip(clips, targets, strict=True)):
        source = clip.frames[0]
        others = [frame for frame in allowed.frames if frame != source or single]
        if others:
            places = np.linspace(0, len(others) - 1, min(pairs_per_clip, len(others))).round()
            pairs += [Pair(index, source, (others[int(place)],)) for place in places]
    return pairs


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.9])
def test_tables_hold_out_the_same_frames(ratio: float) -> None:
    clips = _clips(1, 60)
    kept, held = ClipTable.of(clips).held_out(ratio)
    assert [(k.frames, h.frames) for k, h in zip(kept, held, strict=True)] == [
        _split(clip.frames, ratio) for clip in clips
    ]
    joined = ClipTable.joined([kept, held], [20, 20])
    assert list(joined) == [*kept, *(PlanClip(20 + clip.shard, clip.frames) for clip in held)]


def test_evaluation_plans_are_the_lists_made_when_asked() -> None:
    clips = ClipTable.of(_clips(2, 40))
    assert list(EvaluationPlan(clips, None, 3)) == _pairs(clips, clips, 3)
    kept, held = clips.held_out(0.4)
    plan = EvaluationPlan(kept, held, 3)
    assert list(plan) == _pairs(kept, held, 3)
    assert list(plan[1:4]) == list(plan)[1:4]
    with pytest.raises(IndexError):
        plan[len(plan)]
    single = ClipTable.of([PlanClip(0, (4,)), PlanClip(0, (2,))])
    assert list(EvaluationPlan(single, None, 8)) == _pairs(single, single, 8)


def test_a_cap_takes_pairs_of_each_clip_first_and_then_clips() -> None:
    clips = ClipTable.of([PlanClip(i, tuple(range(10))) for i in range(100)])
    assert len(EvaluationPlan(clips, None, 8)) == 800
    fewer = EvaluationPlan(clips, None, 8, max_pairs=350)
    assert len(fewer) == 300
    assert {pair.clip for pair in fewer} == set(range(100))
    spaced = EvaluationPlan(clips, None, 8, max_pairs=12)
    assert [pair.clip for pair in spaced] == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert list(EvaluationPlan(clips, None, 8, max_pairs=800)) == list(EvaluationPlan(clips, None, 8))


def test_a_cap_that_holds_changes_nothing() -> None:
    clips = [PlanClip(0, (0, 1))] * 590 + [PlanClip(0, tuple(range(9)))] * 10
    plan = EvaluationPlan(clips, None, 8)
    assert len(plan) == 670
    assert list(EvaluationPlan(clips, None, 8, max_pairs=670)) == list(plan)
    assert len(EvaluationPlan(clips, None, 8, max_pairs=669)) == 600
    assert len(EvaluationPlan(clips, None, 8, max_pairs=50)) == 50


def test_a_source_is_looked_for_once_per_clip() -> None:
    asked = []

    def middle(clip: int, frames: Sequence[int]) -> int:
        asked.append(clip)
        return frames[len(frames) // 2]

    plan = EvaluationPlan([PlanClip(0, (0, 1, 2)), PlanClip(0, (0, 1))], None, 8, source_of=middle)
    assert [(pair.clip, pair.source, pair.drivers) for pair in plan] == [
        (0, 1, (0,)),
        (0, 1, (2,)),
        (1, 1, (0,)),
    ]
    assert asked == [0, 1]


def test_validation_is_capped(dataset: Path) -> None:
    data = TalkingHeadDataModule(dataset, image_size=SIZE, batch_size=4, eval_max_pairs=3)
    assert sum(len(batch) for batch in data.val_dataloader()) == 3
    with pytest.raises(ValueError, match="eval_max_pairs must be positive or null, got 0"):
        TalkingHeadDataModule(dataset, eval_max_pairs=0)


def test_children_map_arrays_instead_of_copying_them() -> None:
    value = {"table": ClipTable.of(_clips(3, 50)), "large": np.arange(100_000), "text": "x"}
    handle = share(value)
    size = os.fstat(handle).st_size
    assert size < value["large"].nbytes + 20_000
    copy = open_shared(handle)
    os.close(handle)
    np.testing.assert_array_equal(copy["large"], value["large"])
    assert list(copy["table"]) == list(value["table"])
    assert not copy["large"].flags.owndata
    assert not copy["large"].flags.writeable


def test_readers_carry_no_names_of_people(joined: Path) -> None:
    reader = ClipReader(Manifest.load(joined), joined, "train")
    assert b"person-" not in pickle.dumps(reader)
    assert isinstance(ShardInfo.load(joined / "train-000000.json"), ShardInfo)
