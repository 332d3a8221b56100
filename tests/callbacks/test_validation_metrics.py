"""The callback that scores validation as ``rome evaluate`` does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import tiny_run
from tiny_run import need, tiny_arguments, tiny_overlay, write_synthetic_dataset

from rome_lightning.callbacks import ValidationMetrics
from rome_lightning.cli.main import main


def test_metrics_are_logged_and_select_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("lpips_alexnet", "sface", "yunet", "face_landmarker")
    monkeypatch.setattr(tiny_run, "SPLITS", {"train": (0,), "val": (1, 2)})
    (tmp_path / "data").mkdir()
    dataset = write_synthetic_dataset(tmp_path / "data")
    overlay = tiny_overlay(dataset, tmp_path / "run")
    overlay["trainer"]["max_epochs"] = 1
    metrics = {
        "self_metrics": ["psnr/masked", "psnr/full", "apd_rotation_deg"],
        "cross_metrics": ["csim_sface"],
    }
    callbacks = overlay["trainer"]["callbacks"]
    callbacks.insert(0, {"class_path": "rome_lightning.callbacks.ValidationMetrics", "init_args": metrics})
    for callback in callbacks:
        if "monitor" in callback.get("init_args", {}):
            callback["init_args"] |= {"monitor": "val/psnr_masked", "mode": "max"}
    assert main(tiny_arguments("fit", overlay, tmp_path)) == 0
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/psnr_full")]
    # The module's own metric and ours see the same images, except for rounding to 8 bits.
    assert float(rows[-1]["val/psnr_full"]) == pytest.approx(float(rows[-1]["val/psnr"]), abs=0.05)
    assert float(rows[-1]["val/psnr_masked"]) != float(rows[-1]["val/psnr_full"])
    assert 0 <= float(rows[-1]["val/undetected_cross"]) <= 1
    assert list((tmp_path / "run" / "images").glob("cross_step_*.png"))
    assert list((tmp_path / "run" / "checkpoints").glob("best*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cross_metrics": ["psnr/full"]}, "psnr/full cannot be scored in cross-reenactment"),
        ({"self_metrics": ["fid_inception"]}, "fid_inception cannot be scored"),
        ({"self_metrics": ["beauty"]}, "unknown metric"),
    ],
)
def test_invalid_metrics_are_refused_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValidationMetrics(**arguments)
