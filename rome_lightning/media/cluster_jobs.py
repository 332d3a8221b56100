"""Waiting for jobs of a cluster, also where its database of finished jobs is missing."""

from __future__ import annotations

import subprocess
import time
from typing import Any

MOST_TIME_LIMITS = 1000
"""How often a job may be queued again at its time limit; submitit allows three unless told otherwise."""
_POLL_S = 1.0
_ASK_S = 30.0
"""Time between two questions to the scheduler; a job gone for so long has no result to come."""


def wait_for_job(job: Any, of_slurm: bool = True, ask_s: float | None = None) -> str:
    """Wait for a job of submitit; gives why it failed, empty if it did not.

    submitit learns from ``sacct`` alone that a job was cancelled, and waits for ever where there is none. The
    queue knows too: a job that left it without a result has none to come.

    Args:
        job: as ``submitit.Executor.submit`` gives it.
        of_slurm: whether SLURM runs it.
        ask_s: None for ``_ASK_S``.
    """
    ask_s = _ASK_S if ask_s is None else ask_s
    asked_s, gone = time.monotonic(), False
    while of_slurm and not job.done():
        time.sleep(_POLL_S)
        if time.monotonic() - asked_s < ask_s:
            continue
        if gone and not job.done():
            return (
                f"job {job.job_id} left the queue without a result (cancelled, or lost with its machine); "
                f"what it printed is in {job.paths.stderr}"
            )
        asked_s, gone = time.monotonic(), not is_queued(str(job.job_id))
    problem = job.exception()
    return "" if problem is None else " ".join(str(problem).split())


def is_queued(job: str) -> bool:
    """Whether SLURM says that a job waits, runs or ends; also where SLURM does not answer."""
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%T"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return True
    if answer.returncode:
        # Forgotten by the scheduler; any other error says nothing about the job.
        return "Invalid job id" not in answer.stderr
    return bool(answer.stdout.strip())
