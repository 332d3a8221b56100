"""The notebook runs from top to bottom, on a small model of random weights and synthetic people."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import nbclient
import nbformat
import pytest
import torch
from helpers import perturbed, small_config
from tiny_run import IMAGE_SIZE, ROOT, write_synthetic_dataset

from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import CONFIG_KEY

NOTEBOOK = ROOT / "notebooks" / "distillation.ipynb"


def _read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_defines_nothing_and_is_kept_without_outputs() -> None:
    cells = [cell for cell in _read().cells if cell.cell_type == "code"]
    tree = ast.parse("\n".join(cell.source for cell in cells))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert [node for node in ast.walk(tree) if isinstance(node, definitions)] == []
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


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
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Kernels talk over a socket file, whose path has to be short.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = _read()
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    kinds = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert kinds.count("image/png") == 3
    (folder,) = tmp_path.glob("rome-distillation-*")
    assert (folder / "basis.safetensors").is_file()
