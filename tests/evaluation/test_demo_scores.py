"""The scores of ``rome demo``, which equal those of ``rome evaluate``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import IMAGE_SIZE, need

from datamodules.evaluation import JoinedClips, StoredClips
from rome_lightning.cli import demo
from rome_lightning.evaluation import systems
from rome_lightning.evaluation.pairs import read_pairs


def test_the_demo_scores_what_training_did_not_see(
    shrunk: Callable[..., Path],
    dataset: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need("lpips_alexnet", "sface", "yunet", "face_landmarker")
    monkeypatch.setattr(systems, "encode_refined", lambda model, source, *_: model.encode(source))
    (tmp_path / "protocols").mkdir()
    shutil.move(shrunk("demo"), tmp_path / "protocols" / "demo.yaml")
    output = tmp_path / "run"
    output.mkdir()
    (output / "shards").symlink_to(dataset if dataset.is_dir() else dataset.parent)

    sections = demo._score(checkpoint, tmp_path / "protocols" / "demo.yaml", output)

    folder = output / "evaluation" / "demo"
    whole = StoredClips(dataset, "train", IMAGE_SIZE)
    val = StoredClips(dataset, "val", IMAGE_SIZE)
    pairs = read_pairs(folder / "pairs.txt", JoinedClips([whole, val]).clips)
    (person,) = whole.clips
    # A fifth of four frames: only the last one.
    assert {p.frame for p in pairs if p.driver_clip == person.key} == {person.frames[-1]}
    seen, unseen, cross = (section.tables[0] for section in sections)
    assert [row[0] for row in seen.rows] == [person.key]
    assert {row[0] for row in unseen.rows} == {clip.key for clip in val.clips}
    assert len(cross.rows) == 4
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert seen.columns[2:] == ["psnr/full", "ssim/full", "lpips_alex/full", "csim_sface"]
    values = [float(row[2].split()[0]) for row in (*seen.rows, *unseen.rows)]
    assert sum(values) / 4 == pytest.approx(metrics["self"]["psnr/full"]["mean"], abs=0.01)
    for name in ("seen", "val"):
        assert (output / f"contact_sheet_{name}.png").is_file()
