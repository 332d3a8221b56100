"""The notebook runs from top to bottom, on a model that has learned nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import nbclient
import nbformat
import pytest
from tiny_run import ROOT, need, untrained_checkpoint

TOUR = ROOT / "notebooks" / "tour.ipynb"


def _read() -> nbformat.NotebookNode:
    return nbformat.read(TOUR, as_version=4)


def _code() -> list[str]:
    return [cell.source for cell in _read().cells if cell.cell_type == "code"]


def test_it_defines_nothing():
    tree = ast.parse("\n".join(_code()))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert [node for node in ast.walk(tree) if isinstance(node, definitions)] == []


def test_it_is_kept_without_outputs():
    for cell in _read().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    need("face_landmarker", "selfie_multiclass", "modnet", "clip_cap13")
    monkeypatch.setenv("ROME_CHECKPOINT", str(untrained_checkpoint(tmp_path / "model.ckpt")))
    monkeypatch.setenv("ROME_TOUR_FRAMES", "4")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Kernels talk over a socket file, whose path has to be short.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = _read()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": TOUR.parent}}).execute()
    kinds = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert kinds.count("image/png") == 3
    assert kinds.count("text/html") == 1
    (folder,) = tmp_path.glob("rome-tour-*")
    assert {path.name for path in folder.iterdir()} >= {
        *("driven.mp4", "avatar.safetensors", "avatar.glb", "avatar.obj")
    }
