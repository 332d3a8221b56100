"""Runs of ``rome fit`` that are killed, stopped, damaged and resumed end like undisturbed ones."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_parts import RunServer
from tiny_run import ROOT, need, tiny_arguments, tiny_overlay

STEPS_PER_EPOCH, NUM_EPOCHS = 3, 3
# Times, which differ between runs.
_TIMES = ("time/", "memory/")


@pytest.fixture(scope="module")
def server() -> Iterator[RunServer]:
    need("lpips_alexnet")
    server = RunServer()
    yield server
    server.close()


def _arguments(dataset: Path, run: Path, **data: Any) -> list[str]:
    """Everything with state: a discriminator, a schedule, averaged weights, random colours per step."""
    overlay = tiny_overlay(dataset, run, pairs_per_epoch=STEPS_PER_EPOCH, **data)
    overlay["trainer"]["max_epochs"] = NUM_EPOCHS
    overlay["trainer"]["callbacks"][-1]["init_args"]["every_n_steps"] = 2
    overlay["trainer"]["callbacks"].append(
        {
            "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
            "init_args": {"decay": 0.7, "use_buffers": False},
        }
    )
    model = overlay["model"]["init_args"]
    model["losses"] |= {"adversarial": 0.1}
    model["optimizer"] |= {"schedule": "cosine", "warmup_steps": 3}
    model["discriminator"] = {"width": 8, "num_blocks": 2}
    overlay["data"]["init_args"]["augmentation"] = {"brightness": 0.2, "saturation": 0.3}
    run.mkdir(parents=True, exist_ok=True)
    return tiny_arguments("fit", overlay, run, "--ckpt_path", "auto")


@pytest.fixture(scope="module")
def whole(server: RunServer, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert server.run(*_arguments(dataset, run), log=run.parent / "log") == 0, (
        run.parent / "log"
    ).read_text()
    return run


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if value and not key.startswith(_TIMES)}
            for row in csv.DictReader(file)
        ]


def _assert_same(run: Path, whole: Path) -> None:
    assert _rows(run) == _rows(whole)
    one, other = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (run, whole)
    )
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
    best = (
        torch.load(f / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"] for f in (run, whole)
    )
    torch.testing.assert_close(next(best), next(best), rtol=0, atol=0)


def test_a_run_killed_damaged_and_terminated_ends_bit_for_bit_as_the_whole_one(
    server, dataset, whole, tmp_path
):
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = _arguments(dataset, run)
    assert server.run(*arguments, log=log, kill_at_step=5) == -signal.SIGKILL
    # A damaged checkpoint falls back to the one before.
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    # In the middle of a step, which is completed first: a terminated run loses nothing.
    assert server.run(*arguments, log=log, send=(4, signal.SIGTERM)) == 128 + signal.SIGTERM
    said = log.read_text()
    assert "last.ckpt is not a readable checkpoint" in said
    assert "falling back to previous.ckpt" in said
    assert f"stopped by SIGTERM after 5 steps; resume with --ckpt-path {last}" in said
    assert not json.loads((run / "summary.json").read_text())["finished"]
    assert last.with_name("last.ckpt.damaged").is_file()
    assert torch.load(last, weights_only=True)["rome_run"]["steps"] == 5
    # Killed again in the middle of an epoch, after the last checkpoint.
    assert server.run(*arguments, log=log, kill_at_step=7) == -signal.SIGKILL
    assert server.run(*arguments, log=log) == 0
    _assert_same(run, whole)


def _fake_scontrol(folder: Path) -> dict[str, str]:
    """A scheduler's client that only records requests."""
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/requests\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}


@pytest.mark.slow
def test_before_the_time_limit_a_job_is_requeued_and_resumes(server, dataset, whole, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    environment = _fake_scontrol(tmp_path / "bin")
    arguments = _arguments(dataset, run)
    code = server.run(*arguments, log=log, send=(1, signal.SIGUSR1), environment=environment)
    assert code == 128 + signal.SIGUSR1
    assert (tmp_path / "bin" / "requests").read_text() == "requeue 4711\n"
    assert "(requeued)" in log.read_text()
    assert server.run(*arguments, log=log, environment=environment) == 0
    _assert_same(run, whole)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(server, dataset, whole, tmp_path):
    """Including while a checkpoint or a table is written."""
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = _arguments(dataset, run, num_workers=2)
    moments = random.Random(0)
    kills = 0
    # Longer each time: a slow machine may not finish a step within a few seconds.
    while (code := server.run(*arguments, log=log, kill_after_s=moments.uniform(3, 9) * 1.1**kills)) != 0:
        assert code == -signal.SIGKILL, log.read_text()
        kills += 1
        assert kills < 40, "no progress between kills"
    assert kills
    _assert_same(run, whole)


@pytest.mark.slow
def test_the_job_script_reaches_its_end_over_several_time_limits(dataset, tmp_path):
    """A scheduler of a few lines: it runs the script, sends the signal in time, and queues on request."""
    need("lpips_alexnet")
    folder = tmp_path / "bin"
    environment = {**os.environ, **_fake_scontrol(folder), "OMP_NUM_THREADS": "1"}
    environment |= {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    scripts = {
        # The time limit is reached as soon as there is progress to lose.
        "srun": f'"$@" & job=$!\nwhile kill -0 $job 2>/dev/null; do\n  sleep 0.2\n'
        f"  [ -e {folder}/warned ] || [ ! -e {tmp_path}/run/metrics.csv ] && continue\n"
        f"  touch {folder}/warned; kill -USR1 $job\ndone\nwait $job\n",
        "rome": f'exec {sys.executable} -m rome_lightning "$@"\n',
    }
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}")
        (folder / name).chmod(0o755)
    overlay = tiny_overlay(dataset, tmp_path / "run", pairs_per_epoch=4)
    # SLURM determines the number of devices: the script passes it on and refuses a different configuration.
    overlay["trainer"] |= {"num_nodes": 1, "strategy": "auto"}
    overlay["trainer"].pop("devices", None)
    tiny_arguments("fit", overlay, tmp_path)
    command = [
        "bash",
        str(ROOT / "experiments" / "slurm" / "single_node.sh"),
        "--config",
        f"{tmp_path}/tiny.yaml",
    ]
    codes = []
    while not codes or (folder / "requests").exists():
        (folder / "requests").unlink(missing_ok=True)
        codes.append(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)
        assert len(codes) < 5
    assert codes == [128 + signal.SIGUSR1, 0]
    assert [int(row["step"]) for row in _rows(tmp_path / "run") if "train/loss" in row] == list(range(8))
