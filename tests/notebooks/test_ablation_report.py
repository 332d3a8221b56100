"""The report runs from top to bottom on generated run folders."""

from __future__ import annotations

import ast
from pathlib import Path

import nbclient
import nbformat
import pytest
from run_folders import write_run
from tiny_run import ROOT

REPORT = ROOT / "notebooks" / "ablation_report.ipynb"


def _read() -> nbformat.NotebookNode:
    return nbformat.read(REPORT, as_version=4)


def test_it_defines_nothing_and_is_kept_without_outputs():
    cells = [cell for cell in _read().cells if cell.cell_type == "code"]
    tree = ast.parse("\n".join(cell.source for cell in cells))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert [node for node in ast.walk(tree) if isinstance(node, definitions)] == []
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, channels, gain in (("base", 8, 0.0), ("wide", 16, 1.0)):
        for seed in range(2):
            write_run(
                tmp_path / f"runs/{name}-{seed}", seed, {"channels": channels}, gain, 0.05, pictures=True
            )
    monkeypatch.setenv("ROME_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ROME_REPORT", str(tmp_path / "report"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Kernels talk over a socket file, whose path has to be short.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = _read()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": REPORT.parent}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(str(output.get("data", {}).get("text/markdown", "")) for output in shown)
    assert "+ better" in text
    assert "model.init_args.channels" in text
    # Intervals, curves, and four cases each of the largest difference, the worst and the best.
    assert sum("image/png" in output.get("data", {}) for output in shown) == 14
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {
        *("comparison.html", "curves.pdf", "intervals.pdf", "table.csv", "table.tex", "case_0.png"),
    }
