"""Wait for cluster jobs, even without the database of finished jobs."""

from __future__ import annotations

import subprocess
import time
from typing import Any

MOST_TIME_LIMITS = 1000
"""How often a job may be requeued at its time limit; submitit's default is three."""
_POLL_S = 1.0
_ASK_S = 30.0
"""Time between two queries to the scheduler; a job missing for this long will give no result."""


def wait_for_job(job: Any, of_slurm: bool = True, ask_s: float | None = None) -> str:
    """Wait for a job of submitit; return why it failed, or "" if it did not.

    submitit detects a cancelled job only through ``sacct`` and waits forever without it. The queue shows it
    too: a job that left it without a result will give none.

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
                f"its output is in {job.paths.stderr}"
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
