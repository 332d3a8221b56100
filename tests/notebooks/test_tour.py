"""The notebook runs from top to bottom, on an untrained model."""

from __future__ import annotations

from pathlib import Path

import pytest
from notebook_files import check_stored, run
from tiny_run import need, untrained_checkpoint

TOUR = "tour.ipynb"


def test_it_defines_nothing_and_is_kept_without_outputs():
    check_stored(TOUR)


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    need("face_landmarker", "selfie_multiclass", "modnet", "clip_cap13")
    monkeypatch.setenv("ROME_CHECKPOINT", str(untrained_checkpoint(tmp_path / "model.ckpt")))
    monkeypatch.setenv("ROME_TOUR_FRAMES", "4")
    shown = run(TOUR, tmp_path, monkeypatch)
    assert sum("image/png" in data for data in shown) == 3
    assert sum("text/html" in data for data in shown) == 1
    (folder,) = tmp_path.glob("rome-tour-*")
    assert {path.name for path in folder.iterdir()} >= {
        *("driven.mp4", "avatar.safetensors", "avatar.glb", "avatar.obj")
    }
