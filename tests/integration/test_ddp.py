"""Two processes train like one with twice the batch, and none waits for a dead one."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from ddp_fit import half
from tiny_run import need, tiny_arguments, tiny_overlay

from rome_lightning.cli import main as cli

PROGRAM = Path(__file__).with_name("ddp_fit.py")
LIMIT_S = 60
"""Longest time that a process may wait for a dead one."""
PATIENCE_S = 300
"""The same where none dies: on a busy machine a process takes a minute to start."""


def _arguments(dataset: Path, run: Path, num_processes: int, limit_s: int = PATIENCE_S) -> list[str]:
    need("lpips_alexnet")
    overlay = tiny_overlay(dataset, run, batch_size=2 // num_processes, pairs_per_epoch=4)
    overlay["trainer"] |= {"max_epochs": 1, "devices": num_processes}
    if num_processes > 1:
        overlay["trainer"]["strategy"] = {
            "class_path": "lightning.pytorch.strategies.DDPStrategy",
            "init_args": {"process_group_backend": "gloo", "timeout": str(timedelta(seconds=limit_s - 1))},
        }
    losses = overlay["model"]["init_args"]["losses"]
    # Its points are sampled at random.
    losses |= {"chamfer": 0.0, "adversarial": 0.1}
    overlay["model"]["init_args"]["discriminator"] = {"width": 8, "num_blocks": 2}
    run.mkdir()
    return tiny_arguments("fit", overlay, run, "--ckpt_path", "auto")


def _fit(dataset: Path, run: Path, fail: str = "") -> subprocess.CompletedProcess[str]:
    """A run of two processes."""
    limit_s = LIMIT_S if fail else PATIENCE_S
    arguments = _arguments(dataset, run, 2, limit_s)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"FAIL": fail} if fail else {})}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * limit_s,
        check=False,
    )


def _rows(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if value and key.startswith(("train/", "val/"))}
            for row in csv.DictReader(file)
        ]


def test_two_processes_have_the_losses_of_one_with_the_doubled_batch(dataset, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    ended = _fit(dataset, two)
    assert ended.returncode == 0, ended.stderr
    monkeypatch.setattr(torch, "rand", half)
    assert cli.main(_arguments(dataset, one, 1)) == cli.EXIT_OK
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, two)
    ]
    # Sums in another order; Adam's division by small gradients makes the most of it: a step of a weight whose
    # gradient is rounding alone has any size up to the learning rate, 2e-3 here, in either direction.
    flipped = total = 0
    for name, value in weights[0].items():
        difference = (value - weights[1][name]).abs()
        assert difference.max() < 4e-3, name
        count = int((difference > 1e-3 * (1 + value.abs())).sum())
        # One of the 32 values of a bias is more than a hundredth of them.
        assert count <= max(1, 1e-2 * value.numel()), name
        flipped, total = flipped + count, total + value.numel()
    assert flipped < 2e-3 * total
    torch.testing.assert_close(_rows(one), _rows(two), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fail", "complaint"),
    [
        ("error@1", "this batch is broken"),
        ("killed@1", "another process of this run ended .* resume with --ckpt-path auto"),
    ],
)
def test_a_rank_that_is_gone_ends_the_others_with_an_error(dataset, tmp_path, fail, complaint):
    began = time.monotonic()
    ended = _fit(dataset, tmp_path / "run", fail)
    took = time.monotonic() - began
    assert ended.returncode not in (0, None)
    assert re.search(complaint, ended.stderr)
    # Starting and importing take most of it.
    assert took < 2 * LIMIT_S


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_both(dataset, tmp_path):
    ended = _fit(dataset, tmp_path / "run", "nan@1")
    assert ended.returncode == 0, ended.stderr
    assert _rows(tmp_path / "run")[-2]["train/skipped_steps"] == 1
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_after_the_same_step(dataset, tmp_path):
    ended = _fit(dataset, tmp_path / "run", "terminated@1")
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert "stopped by SIGTERM after 2 steps" in ended.stderr
    assert (
        torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["rome_run"]["steps"]
        == 2
    )
