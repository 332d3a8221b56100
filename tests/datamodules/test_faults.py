"""Damaged datasets: when damage is detected, and that it can be repaired."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_tracker import SquareTracker, write_clip
from small_dataset import SIZE

from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig, prepare
from datamodules.prepare.config import BuildOptions
from datamodules.reading import ClipReader
from datamodules.repairing import rebuild_shards
from datamodules.shards import SCHEMA
from datamodules.talking_heads import TalkingHeadDataModule
from datamodules.verifying import verify
from rome_lightning.cli.main import main as rome
from rome_lightning.media.digest import SEAL_BYTES

SHARD = "train-000000"


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dataset, tmp_path / "copy")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def flip_member(folder: Path, suffix: str) -> None:
    with tarfile.open(folder / f"{SHARD}.tar") as tar:
        member = next(m for m in tar if m.name.endswith(suffix))
    flip(folder / f"{SHARD}.tar", member.offset_data + member.size // 2)


def truncate(folder: Path, at_member: bool) -> None:
    with tarfile.open(folder / f"{SHARD}.tar") as tar:
        end = tar.getmembers()[3].offset + (0 if at_member else 700)
    with (folder / f"{SHARD}.tar").open("r+b") as file:
        file.truncate(end)


def edit_schema(folder: Path) -> None:
    path = folder / f"{SHARD}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": "rome-shard/2"}))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "frame": (lambda d: flip_member(d, "frames.bin"), "frame [0-9]+ of clip-0"),
    "mask": (lambda d: flip_member(d, "masks.bin"), "frame [0-9]+ of clip-0"),
    "parameters": (lambda d: flip_member(d, "meta.safetensors"), "parameters of clip-0"),
    "tar header": (lambda d: flip(d / f"{SHARD}.tar", 3), "damage is between them"),
    "truncated": (lambda d: truncate(d, at_member=False), "bytes instead of"),
    "truncated at a member": (lambda d: truncate(d, at_member=True), "bytes instead of"),
    "no shard": (lambda d: (d / f"{SHARD}.tar").unlink(), "tar is missing"),
    "no sidecar": (lambda d: (d / f"{SHARD}.json").unlink(), "json is missing"),
    "schema": (edit_schema, "rome-shard/2"),
    "no index": (lambda d: (d / f"{SHARD}.frames.npy").unlink(), "frames.npy is missing"),
    "index": (lambda d: flip(d / f"{SHARD}.clips.npy", 300), "clips.npy does not fit"),
    "checks": (lambda d: flip(d / f"{SHARD}.params.npy", 140), "params.npy does not fit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_at_its_shard(
    copy: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = FAULTS[fault]
    assert rome(["shards", "verify", str(copy)]) == 0
    damage(copy)
    capsys.readouterr()
    assert rome(["shards", "verify", str(copy)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{SHARD}: ")
    assert message.split("[")[0] in out
    assert "1 of 4 shards are bad" in out


@pytest.mark.parametrize("fault", ["no index", "index", "checks"])
def test_indices_are_repaired_from_their_shard(copy: Path, dataset: Path, fault: str) -> None:
    FAULTS[fault][0](copy)
    assert rome(["shards", "verify", str(copy), "--repair"]) == 0
    for path in dataset.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("fault", ["truncated", "truncated at a member", "no shard"])
def test_training_does_not_start_with_a_shard_cut_short(copy: Path, fault: str) -> None:
    FAULTS[fault][0](copy)
    with pytest.raises(ValueError, match=rf"{SHARD}\.tar must have [0-9]+ bytes"):
        TalkingHeadDataModule(copy, image_size=SIZE).setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["frame", "mask", "parameters"])
def test_training_replaces_and_counts_what_is_damaged(copy: Path, fault: str, workers: int) -> None:
    FAULTS[fault][0](copy)
    options = {"image_size": SIZE, "batch_size": 4, "pairs_per_epoch": 60, "num_workers": workers}
    data = TalkingHeadDataModule(copy, skip_budget=1.0, num_driving=4, **options)
    loader = data.train_dataloader()
    pairs = sum(len(data.on_after_batch_transfer(batch, 0)) for batch in loader)
    loader.close()
    assert pairs == 60
    assert data.pairs_skipped > 0
    strict = TalkingHeadDataModule(copy, num_driving=4, **options)
    loader = strict.train_dataloader()
    with pytest.raises(ValueError, match="could not be read"):
        [strict.on_after_batch_transfer(batch, 0) for batch in loader]
    loader.close()


def test_a_dataset_without_shards(dataset: Path, tmp_path: Path) -> None:
    dataclasses.replace(Manifest.load(dataset), shards=[]).save(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match="no training clips"):
        TalkingHeadDataModule(tmp_path, image_size=SIZE).setup("fit")


def test_shard_names_are_no_paths(copy: Path) -> None:
    manifest = Manifest.load(copy)
    for name in ("../x", "a/b", "x; rm", ".hidden"):
        bad = dataclasses.replace(manifest.shards[0], name=name)
        dataclasses.replace(manifest, shards=[bad]).save(copy / "manifest.json")
        with pytest.raises(ValueError, match="name of a shard"):
            Manifest.load(copy, check_files=False)


def test_shards_are_made_again_from_their_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, folder = tmp_path / "videos", tmp_path / "d"
    videos.mkdir()
    for index, name in enumerate(("anna", "bert")):
        write_clip(videos / f"{name}.mp4", index)
    config = PrepareConfig(
        image_size=64, fps=None, min_frames=4, videos_per_shard=1, min_identity_similarity=None
    )
    manifest = prepare([videos], folder, config, log=lambda line: None, make_tracker=SquareTracker)
    before = {path.name: path.read_bytes() for path in folder.glob("train-*")}
    first, second = manifest.shards
    flip(folder / f"{first.name}.tar", 4000)
    with (folder / f"{second.name}.tar").open("r+b") as file:
        file.truncate(1000)
    assert [len(problems) for _, problems in verify(folder, manifest)] == [1, 1]

    def rebuild(given: list[Path]) -> list[str]:
        options = {"options": BuildOptions(workers=0), "make_tracker": SquareTracker}
        return rebuild_shards(folder, manifest, manifest.shards, given, lambda line: None, **options)

    # A shard whose video is missing is left unchanged.
    (failed,) = rebuild([videos / "anna.mp4"])
    assert failed == f"{second.name}: it needs bert.mp4: pass these videos, or their folder, with --videos"
    assert (folder / f"{second.name}.tar").stat().st_size == 1000
    # So is one of another schema, whose bytes cannot be reproduced here.
    with monkeypatch.context() as later:
        later.setattr("datamodules.repairing.SCHEMA", "rome-shard/1.9")
        failed = rebuild([videos])
    assert [f"built with schema {SCHEMA}, here is" in line for line in failed] == [True, True]
    assert (folder / f"{second.name}.tar").stat().st_size == 1000
    assert rebuild([videos]) == []
    assert {path.name: path.read_bytes() for path in folder.glob("train-*")} == before
    assert [problems for _, problems in verify(folder, manifest)] == [[], []]


def test_statistics(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rome(["shards", "stats", str(dataset)]) == 0
    rows = {line.split()[0]: line.split()[1:5] for line in capsys.readouterr().out.splitlines()[1:4]}
    assert rows["train"] == ["3", "5", "5", "60"]
    assert rows["val"] == ["1", "1", "1", "12"]
    size = sum((dataset / f"train-{i:06d}.tar").stat().st_size for i in range(3))
    assert np.isclose(size / 60, 1e3 * float(_column(dataset, capsys, "train", 6)), rtol=0.05)


def _column(dataset: Path, capsys: pytest.CaptureFixture[str], split: str, column: int) -> str:
    rome(["shards", "stats", str(dataset)])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(split)]
    return row.split()[column]


def cut_header(data: bytearray) -> bytearray:
    """Leave brackets open in the header of an array file."""
    start, end = data.index(b"'fortran_order'"), data.index(b"\n", 10)
    data[start:end] = b" " * (end - start)
    return data


def damage_end(data: bytearray) -> bytearray:
    """Last row and the beginning of the digest at once."""
    end = len(data) - SEAL_BYTES
    data[end - 8 : end + 4] = bytes(12)
    return data


@pytest.mark.parametrize("change", [cut_header, damage_end, lambda data: data[:200] + data[240:]])
def test_a_changed_index_is_refused_in_one_line(copy: Path, change: Callable[[bytearray], bytearray]) -> None:
    """Headers that no parser reads, and damage that takes the digest with it."""
    path = copy / f"{SHARD}.frames.npy"
    path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(ValueError, match=r"index .*frames.npy is damaged: .*rome shards verify --repair"):
        ClipReader(Manifest.load(copy), copy, "train")
