"""Logging to Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import pytest

from rome_lightning.callbacks.run_logger import run_loggers
from rome_lightning.cli.fit import _folder_of_agent


def test_the_summary_keeps_the_best_value_and_nothing_is_advertised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    logger = run_loggers(tmp_path, "offline", False, 0)[-1]
    for step, value in enumerate([0.5, 0.2, 0.4]):
        logger.log_metrics({"val/lpips": value, "val/psnr_masked": 20 - value, "train/loss": value}, step)
    summary = logger.experiment.summary
    assert summary["val/lpips"]["min"] == 0.2
    assert summary["val/psnr_masked"]["max"] == 19.8
    assert summary["train/loss"] == 0.4
    logger.experiment.finish()
    assert capfd.readouterr() == ("", "")


def test_trials_of_an_agent_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch):
    assert _folder_of_agent(["fit"]) == []
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "run")
    assert _folder_of_agent(["fit"]) == ["--run_dir=runs/sweeps/sweep/run"]
    monkeypatch.setenv("WANDB_RUN_ID", "../../../run")
    assert _folder_of_agent(["fit"]) == ["--run_dir=runs/sweeps/sweep/_.._.._run"]
    assert _folder_of_agent(["fit", "--run_dir", "mine"]) == []
    assert _folder_of_agent(["fit", "--run_dir=mine"]) == []
