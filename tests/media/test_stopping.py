"""Signals before training, and jobs that end silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rome_lightning.media import cluster_jobs, stopping

WAITING = """
import sys, time
from rome_lightning.media.stopping import RunStopped, watch_from_start
watch_from_start()
try:
    print("ready", flush=True)
    time.sleep(30)
except RunStopped as stop:
    print(stop.message, flush=True)
    raise
"""


def _program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("signum", "rank", "requeued"),
    [
        (signal.SIGUSR1, "0", True),
        (signal.SIGUSR1, "1", False),
        (signal.SIGUSR2, "0", False),
        (signal.SIGTERM, "0", False),
    ],
)
def test_a_signal_before_training_stops_in_order(tmp_path, signum, rank, requeued):
    _program(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/requests')
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "47", "SLURM_PROCID": rank}
    environment.pop("RANK", None)
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    said = process.stdout.read()
    assert process.wait(20) == 128 + signum
    assert said == f"stopped by {signal.Signals(signum).name} before the first step" + (
        " (requeued)\n" if requeued else "\n"
    )
    assert (tmp_path / "requests").exists() == requeued
    assert 128 + signum in stopping.INTERRUPTED_CODES


class _Job:
    job_id = "12_3"
    paths = SimpleNamespace(stderr="jobs/12_3.err")

    def __init__(self, done_after_s: float | None) -> None:
        self._end_s = None if done_after_s is None else time.monotonic() + done_after_s

    def done(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s

    def exception(self) -> None:
        return None


@pytest.mark.parametrize(
    "answer", ["exit 0", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"]
)
def test_a_cancelled_job_is_not_waited_for(tmp_path, monkeypatch, answer):
    _program(tmp_path, "squeue", answer)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(cluster_jobs, "_POLL_S", 0.05)
    reason = cluster_jobs.wait_for_job(_Job(None), ask_s=0.2)
    assert reason.startswith("job 12_3 left the queue without a result")
    assert "jobs/12_3.err" in reason


@pytest.mark.parametrize("answer", ["echo PENDING", "echo 'cannot connect' >&2; exit 1"])
def test_a_job_in_the_queue_is_waited_for(tmp_path, monkeypatch, answer):
    _program(tmp_path, "squeue", answer)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(cluster_jobs, "_POLL_S", 0.05)
    assert cluster_jobs.wait_for_job(_Job(1.0), ask_s=0.2) == ""
