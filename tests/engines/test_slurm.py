"""Jobs of a real SLURM with two virtual nodes give the same results as local runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_checks import assert_same_weights, files_of, prepare_squares, write_videos
from tiny_run import ROOT, tiny_arguments, tiny_overlay

from datamodules.prepare import BuildOptions
from rome_lightning.sweeps.trials import load_trials

_ONE = ("--trainer.strategy", "auto")


def _fit(dataset: Path, run: Path, pairs_per_epoch: int = 4) -> Path:
    """The configuration file of a run of two epochs."""
    overlay = tiny_overlay(dataset, run, pairs_per_epoch=pairs_per_epoch)
    overlay["trainer"]["callbacks"][-1]["init_args"]["every_n_steps"] = 1
    run.parent.mkdir(parents=True, exist_ok=True)
    tiny_arguments("fit", overlay, run.parent)
    return run.parent / "tiny.yaml"


def _local(dataset: Path, run: Path, processes: int = 1, pairs_per_epoch: int = 4) -> Path:
    """A run without SLURM."""
    config = str(_fit(dataset, run, pairs_per_epoch))
    options = ["--trainer.devices", str(processes), "--trainer.strategy", "ddp" if processes > 1 else "auto"]
    command = [sys.executable, "-m", "rome_lightning", "fit", "--config", "full/base", "--config", config]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    return run


def _submit(script: str, config: Path, *options: str, more: Sequence[str] = ()) -> str:
    answer = subprocess.run(
        [
            "sbatch", "--parsable", "--gpus-per-node=0", "--cpus-per-task=1", *options,
            str(ROOT / "experiments" / "slurm" / script), "--config", str(config), *more,
        ],
        cwd=config.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def _state(job: str) -> str:
    answer = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False)
    words = dict(word.split("=", 1) for word in answer.stdout.split() if "=" in word)
    return words.get("JobState", "GONE")


def _wait(job: str, folder: Path, limit_s: float = 900) -> None:
    end_s = time.monotonic() + limit_s
    while _state(job) not in ("COMPLETED", "GONE"):
        text = "".join(path.read_text() for path in folder.glob("rome-*.log"))
        assert _state(job) not in ("FAILED", "CANCELLED", "TIMEOUT"), text[-3000:]
        assert time.monotonic() < end_s, text[-3000:]
        time.sleep(1)


def _until(path: Path, limit_s: float = 600) -> None:
    end_s = time.monotonic() + limit_s
    while not path.is_file():
        assert time.monotonic() < end_s, f"{path} did not appear"
        time.sleep(0.1)


def test_a_job_that_is_warned_is_queued_again_and_ends_as_a_local_run(slurm, dataset, tmp_path):
    run = tmp_path / "job" / "run"
    config = _fit(dataset, run)
    job = _submit("single_node.sh", config, "--ntasks-per-node=1", more=_ONE)
    _until(run / "checkpoints" / "last.ckpt")
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    _wait(job, config.parent)
    said = (config.parent / f"rome-{job}.log").read_text()
    assert "stopped by SIGUSR1 after" in said
    assert "(requeued)" in said
    assert_same_weights(run, _local(dataset, tmp_path / "local" / "run"))


def test_a_job_that_is_warned_before_its_first_step_is_queued_again(slurm, dataset, tmp_path):
    run = tmp_path / "job" / "run"
    config = _fit(dataset, run)
    job = _submit("single_node.sh", config, "--ntasks-per-node=1", more=_ONE)
    while _state(job) != "RUNNING":
        time.sleep(0.2)
    # Modules are being imported.
    time.sleep(3)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    _wait(job, config.parent)
    assert (
        "stopped by SIGUSR1 before the first step (requeued)"
        in (config.parent / f"rome-{job}.log").read_text()
    )
    assert (run / "summary.json").is_file()


def test_two_nodes_train_as_two_processes_do(slurm, dataset, tmp_path):
    run = tmp_path / "job" / "run"
    config = _fit(dataset, run, pairs_per_epoch=8)
    job = _submit("multi_node.sh", config, "--ntasks-per-node=1", "--nodes=2")
    _wait(job, config.parent)
    assert_same_weights(run, _local(dataset, tmp_path / "local" / "run", processes=2, pairs_per_epoch=8))


_JOB = {"slurm_partition": "all", "timeout_min": 20, "mem_gb": 1}


def test_prepare_gives_the_same_bytes(slurm, tmp_path):
    videos = write_videos(tmp_path / "videos", 3)
    prepare_squares(videos, tmp_path / "local", BuildOptions(workers=0))
    said = prepare_squares(
        videos, tmp_path / "jobs", BuildOptions(workers=0, engine="submitit", jobs=2, slurm=_JOB)
    )
    assert sum("finished (" in line for line in said) == 2
    assert files_of(tmp_path / "jobs") == files_of(tmp_path / "local")


def test_a_cancelled_job_ends_the_wait_without_accounting(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr("rome_lightning.media.cluster_jobs._ASK_S", 2.0)
    videos = write_videos(tmp_path / "videos", 3)
    output = tmp_path / "jobs"
    # Jobs that wait until they are cancelled.
    parameters = {**_JOB, "slurm_additional_parameters": {"begin": "now+1hour"}}
    options = BuildOptions(workers=0, engine="submitit", jobs=2, slurm=parameters)

    def cancel() -> None:
        while not list((output / ".jobs").glob("*_submitted.pkl")):
            time.sleep(0.2)
        time.sleep(3)
        subprocess.run(["scancel", "--name", "rome-prepare"], check=True)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(RuntimeError, match=r"2 jobs failed.* left the queue without a result"):
        prepare_squares(videos, output, options)
    thread.join()


def _sweep_file(folder: Path, dataset: Path) -> Path:
    overlay: dict[str, Any] = tiny_overlay(dataset, folder / "unused", pairs_per_epoch=4)
    overlay.pop("run_dir")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    content = {
        "name": "seeds", "method": "grid",
        "metric": {"name": "val/psnr", "goal": "maximize"},
        "parameters": {"seed_everything": {"values": [0, 1]}},
        "command": [
            *("${env}", "rome", "fit", "--config", "full/base"),
            *("--config", str(folder / "tiny.yaml"), "${args}"),
        ],
    }  # fmt: skip
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_sweep_resumes_after_its_time_limits(slurm, dataset, tmp_path):
    file = _sweep_file(tmp_path, dataset)
    output = tmp_path / "sweep"
    cluster = "{slurm_partition: all, timeout_min: 60, cpus_per_task: 1, mem_gb: 2}"
    command = [
        *(sys.executable, "-m", "rome_lightning", "sweep", str(file), "--output", str(output)),
        *("--engine", "submitit", "--processes", "2", "--wandb", "disabled", "--cluster", cluster),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    _until(output / "trials" / "0001" / "metrics.csv")
    queue = subprocess.check_output(["squeue", "-h", "-r", "-o", "%i %j"], text=True).splitlines()
    job = sorted(line.split()[0] for line in queue)[0]
    # The signals that SLURM sends to an array task at its limit: to submitit, and to its training.
    subprocess.run(["scancel", f"--signal={signal.SIGUSR2.name[3:]}", job], check=True)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    assert [trial.status for trial in load_trials(output)] == ["finished", "finished"]
    log = (output / "trials" / "0001" / "log.txt").read_text()
    assert "stopped by SIG" in log
    assert (output / "ranking.html").is_file()
