"""The report runs from top to bottom on generated run folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from notebook_files import check_stored, run
from run_folders import write_run

REPORT = "ablation_report.ipynb"


def test_it_defines_nothing_and_is_kept_without_outputs():
    check_stored(REPORT)


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, channels, gain in (("base", 8, 0.0), ("wide", 16, 1.0)):
        for seed in range(2):
            write_run(
                tmp_path / f"runs/{name}-{seed}", seed, {"channels": channels}, gain, 0.05, pictures=True
            )
    monkeypatch.setenv("ROME_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ROME_REPORT", str(tmp_path / "report"))
    shown = run(REPORT, tmp_path, monkeypatch)
    text = "\n".join(str(data.get("text/markdown", "")) for data in shown)
    assert "+ better" in text
    assert "model.init_args.channels" in text
    # Intervals, curves, and four cases each of the largest difference, the worst and the best.
    assert sum("image/png" in data for data in shown) == 14
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {
        *("comparison.html", "curves.pdf", "intervals.pdf", "table.csv", "table.tex", "case_0.png"),
    }
