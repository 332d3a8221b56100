"""The notebook runs from top to bottom, on a small model of random weights and synthetic people."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import perturbed, small_config
from notebook_files import check_stored, run
from tiny_run import IMAGE_SIZE, write_synthetic_dataset

from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import CONFIG_KEY

NOTEBOOK = "distillation.ipynb"


def test_it_defines_nothing_and_is_kept_without_outputs() -> None:
    check_stored(NOTEBOOK)


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write_synthetic_dataset(tmp_path / "data")
    torch.manual_seed(0)
    model = perturbed(AvatarModel(small_config()))
    state = {f"avatar.{key}": value for key, value in model.state_dict().items()}
    content = {"state_dict": state, CONFIG_KEY: dataclasses.asdict(model.config), "image_size": IMAGE_SIZE}
    torch.save(content, tmp_path / "model.ckpt")
    monkeypatch.setenv("ROME_CHECKPOINT", str(tmp_path / "model.ckpt"))
    monkeypatch.setenv("ROME_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ROME_REFINE_STEPS", "0")
    shown = run(NOTEBOOK, tmp_path, monkeypatch)
    assert sum("image/png" in data for data in shown) == 3
    (folder,) = tmp_path.glob("rome-distillation-*")
    assert (folder / "basis.safetensors").is_file()
