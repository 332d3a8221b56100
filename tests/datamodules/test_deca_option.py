"""Datasets whose parameters are estimated by DECA's encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from deca_files import constant_weights, write_deca
from fake_tracker import write_clip

from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig, prepare
from datamodules.repairing import rebuild_shards
from rome_lightning.media.digest import file_sha256


def test_the_file_counts_and_not_its_place(tmp_path: Path) -> None:
    file = write_deca(tmp_path / "deca_model.tar", constant_weights({}))
    moved = file.with_name("moved.tar")
    moved.write_bytes(file.read_bytes())
    plain, first, second = (PrepareConfig(deca=deca) for deca in (None, str(file), str(moved)))
    assert first.clip_settings() == second.clip_settings() != plain.clip_settings()
    assert first.recorded("flame") == second.recorded("flame")
    assert first.recorded("flame")["deca"] == file_sha256(file)
    assert first.recorded("flame")["head"] == "flame"
    # Earlier datasets keep their hash.
    assert "deca" not in plain.clip_settings()
    assert "deca" not in plain.recorded("open")


def test_a_wrong_head_ends_the_run(tmp_path: Path) -> None:
    file = write_deca(tmp_path / "deca_model.tar", constant_weights({}))
    clip = write_clip(tmp_path / "a.mp4", 7)
    with pytest.raises(ValueError, match="parameters of DECA are FLAME's, the head is"):
        prepare([clip], tmp_path / "data", PrepareConfig(deca=str(file)))


def test_repair_does_not_know_the_file(tmp_path: Path) -> None:
    manifest = Manifest("heads", 64, {}, [], {"deca": "0123"})
    with pytest.raises(ValueError, match=r"its parameters are DECA's; run rome prepare again"):
        rebuild_shards(tmp_path, manifest, [], [], print)
