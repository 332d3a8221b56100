"""A run interrupted anywhere ends like an uninterrupted one; a tiny module stands in for a model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from small_run import (
    STEPS_PER_EPOCH,
    Break,
    Cut,
    Killed,
    SmallData,
    SmallModule,
    fit_small,
    logged_rows,
    same_weights,
    saved_steps,
)

from rome_lightning.callbacks import RunCheckpoint, RunSummary, run_checkpoint
from rome_lightning.training.checkpointing import RUN_KEY, RunCheckpointIO, newest_valid


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, range(0, 15, 3)),
        ({"every_n_steps": 1}, range(0, 15, 4)),
        ({"every_n_steps": 1, "val_check_interval": 2}, range(1, 15, 5)),
        pytest.param({"every_n_steps": 1, "val_check_interval": 2}, range(15), marks=pytest.mark.slow),
        ({"every_n_steps": 3, "check_val_every_n_epoch": 2}, range(1, 15, 3)),
        ({"every_n_steps": 2, "num_sanity_val_steps": 1}, range(2, 15, 4)),
        ({"every_n_steps": 5}, range(4, 11)),
        ({"every_n_steps": 2, "limit_val_batches": 0}, range(1, 15, 3)),
    ],
    ids=str,
)
def test_a_run_cut_at_any_step_ends_as_the_whole_one(
    options: dict[str, Any], steps: range, tmp_path: Path
) -> None:
    whole = fit_small(tmp_path / "whole", **options)
    last = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    for step in steps:
        folder = tmp_path / f"cut-{step}"
        # Killed repeatedly, a run advances as far as its checkpoints.
        for cut in (step, step + 1, step + 4, 99):
            try:
                resumed = fit_small(folder, Cut(cut), resume=True, **options)
            except Killed:
                continue
            break
        assert logged_rows(folder) == logged_rows(tmp_path / "whole"), step
        assert same_weights(resumed, whole), step
        again = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops"):
            torch.testing.assert_close(again[key], last[key], rtol=0, atol=0)


def test_checkpoints_say_what_run_they_belong_to(tmp_path: Path) -> None:
    fit_small(tmp_path, epochs=1)
    facts = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)[RUN_KEY]
    assert (facts["steps"], facts["epoch"], facts["seed"], facts["world_size"]) == (STEPS_PER_EPOCH, 0, 0, 1)
    assert facts["code"]["versions"].keys() >= {"torch", "lightning"}


def _full_disk(monkeypatch: pytest.MonkeyPatch, at_writes: set[int]) -> None:
    writes = 0
    original = RunCheckpointIO.save_checkpoint

    def save(
        self: RunCheckpointIO, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        nonlocal writes
        writes += 1
        if writes - 1 in at_writes:
            raise OSError(28, "No space left on device")
        original(self, checkpoint, path, storage_options)

    monkeypatch.setattr(RunCheckpointIO, "save_checkpoint", save)


def test_a_full_disk_keeps_the_old_checkpoint_and_training_continues(tmp_path, monkeypatch, capsys):
    # Before and after the first validation, then after the second, which fails, and the third.
    _full_disk(monkeypatch, {2})
    said = []
    monkeypatch.setattr(run_checkpoint, "rank_zero_warn", said.append)
    fit_small(tmp_path, epochs=3)
    assert said == [
        "no checkpoint after 10 steps: [Errno 28] No space left on device; the previous one is kept, "
        "training continues"
    ]
    assert (saved_steps(tmp_path), saved_steps(tmp_path, "previous")) == (15, 5)


def test_a_run_whose_end_is_not_saved_fails(tmp_path, monkeypatch):
    _full_disk(monkeypatch, {2, 3})
    with pytest.raises(
        OSError, match="the run is finished, but its last state was not saved: after 15 steps"
    ):
        fit_small(tmp_path, epochs=3)
    assert newest_valid(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(("hook", "saved"), [("on_train_batch_start", 7), ("on_before_optimizer_step", 5)])
def test_an_error_saves_what_is_whole_and_no_half_step(hook, saved, tmp_path):
    with pytest.raises(ValueError, match="broken"):
        fit_small(tmp_path, Break(7, hook))
    assert saved_steps(tmp_path) == saved
    assert same_weights(fit_small(tmp_path, resume=True), fit_small(tmp_path / "whole"))


def test_a_run_killed_before_its_first_validation_says_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(SmallData, "dataset_hash", "abc", raising=False)
    monkeypatch.setattr(
        SmallModule, "avatar", SimpleNamespace(head=SimpleNamespace(licence="")), raising=False
    )
    with pytest.raises(Killed):
        fit_small(tmp_path, RunSummary(), Cut(1))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["dataset_hash"], summary["finished"]) == ("abc", False)


@pytest.mark.slow
def test_ranks_that_differ_do_not_wait_for_each_other(tmp_path):
    program = Path(__file__).with_name("uneven_ranks.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "no checkpoint after 8 steps" in ended.stderr
    assert (saved_steps(tmp_path), saved_steps(tmp_path, "previous")) == (16, 16)


def test_a_metric_that_is_not_logged_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"monitor = val/lpips, which is not logged; .*val/score"):
        fit_small(tmp_path, epochs=1, monitor="val/lpips")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_the_best_and_never_not_a_number(mode, tmp_path):
    checkpoint = RunCheckpoint("val/score", mode)
    scores = iter([3.0, math.nan, 1.0, 2.0])

    class Scored(SmallModule):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            if batch_idx == 0:
                self.score = next(scores)
            self.log("val/score", self.score)

    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        callbacks=[checkpoint],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scored(), datamodule=SmallData())
    best = torch.load(checkpoint.best_model_path, weights_only=True)
    assert checkpoint.best_model_score == {"min": 1.0, "max": 3.0}[mode]
    assert best[RUN_KEY]["epoch"] == {"min": 2, "max": 0}[mode]


def test_a_run_gone_on_with_elsewhere_has_a_best_of_its_own_and_leaves_the_old_one(tmp_path):
    def fit(folder: Path, epochs: int, score: float, start: Path | None = None) -> RunCheckpoint:
        class Scored(SmallModule):
            def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
                self.log("val/score", score)

        checkpoint = RunCheckpoint("val/score")
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            callbacks=[checkpoint],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Scored(), datamodule=SmallData(), ckpt_path=start)
        return checkpoint

    old, new = tmp_path / "old", tmp_path / "new"
    fit(old, 1, 1.0)
    before = {path: path.read_bytes() for path in (old / "checkpoints").iterdir()}
    checkpoint = fit(new, 2, 2.0, old / "checkpoints" / "last.ckpt")
    assert checkpoint.best_model_score == 2
    assert torch.load(checkpoint.best_model_path, weights_only=True)[RUN_KEY]["epoch"] == 1
    assert {path: path.read_bytes() for path in (old / "checkpoints").iterdir()} == before
    # In the same folder, the earlier and better one remains.
    assert fit(old, 2, 2.0, old / "checkpoints" / "last.ckpt").best_model_score == 1


def test_invalid_intervals_are_refused():
    with pytest.raises(ValueError, match="every_n_steps of RunCheckpoint must be positive"):
        RunCheckpoint(every_n_steps=0)
