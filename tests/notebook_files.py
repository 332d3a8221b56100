"""Notebooks of the project: their code as it is stored, and their outputs when run."""

from __future__ import annotations

import ast
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def check_stored(name: str) -> None:
    """A notebook defines no functions or classes and is stored without outputs."""
    cells = [cell for cell in _read(name).cells if cell.cell_type == "code"]
    tree = ast.parse("\n".join(cell.source for cell in cells))
    assert [node for node in ast.walk(tree) if isinstance(node, _DEFINITIONS)] == []
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def run(name: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Run a notebook and return the data of its outputs by MIME type, in order.

    Args:
        name: of the file in ``notebooks``.
        scratch: for the notebook's temporary files.
        monkeypatch: of the test.
    """
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Kernels communicate over a socket file, whose path must be short.
    monkeypatch.setenv("IPYTHONDIR", str(scratch / "ipython"))
    notebook = _read(name)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": FOLDER}}).execute()
    return [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]


def _read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / name, as_version=4)
