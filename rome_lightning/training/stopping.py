"""Signals that ask a run to stop: recorded at once, obeyed between two steps."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

REQUEUE_SIGNAL = signal.SIGUSR1
"""What a job script asks SLURM to send before the time limit (``--signal=SIGUSR1@120``)."""
_WATCHED = (signal.SIGINT, signal.SIGTERM, REQUEUE_SIGNAL)


class RunStopped(SystemExit):
    """The run stopped at a signal, after its checkpoint was written.

    Args:
        signum: the signal.
        message: what was saved and how to resume.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(128 + signum)
        self.message = message


class StopRequest:
    """Notes the signals that ask a run to stop, so that a step is never cut in two.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.signum = 0
        """The signal that came, 0 for none."""
        self._before: dict[int, Any] = {}

    def install(self, signum: int = 0) -> None:
        """Install the handlers; only a main thread can.

        Args:
            signum: a signal that came before, 0 for none.
        """
        self.signum = signum
        if threading.current_thread() is threading.main_thread():
            self._before = {int(s): signal.signal(s, self._note) for s in _WATCHED}

    def restore(self) -> None:
        """Restore the previous handlers."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            self.restore()
            raise KeyboardInterrupt
        self.signum = signum
        rank_zero_info(f"{signal.Signals(signum).name}: stopping after this step")


def requeue_job() -> bool:
    """Ask SLURM to run this job again; the job script resumes with ``--ckpt-path auto``.

    Returns:
        Whether there is a job and SLURM took the request.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return False
    try:
        answer = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        rank_zero_warn(
            f"job {job} could not be requeued: {error}; submit it again, it resumes where it stopped"
        )
        return False
    if answer.returncode:
        rank_zero_warn(f"scontrol requeue {job} failed: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.returncode == 0
