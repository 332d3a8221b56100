"""Signals that ask a run to stop: recorded at once, obeyed between two steps.

Until its training begins, a process stops at once, because there is nothing to save.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from types import FrameType

REQUEUE_SIGNAL = signal.SIGUSR1
"""The signal that a job script asks SLURM to send before the time limit (``--signal=SIGUSR1@120``)."""
_WATCHED = (signal.SIGINT, signal.SIGTERM, REQUEUE_SIGNAL, signal.SIGUSR2)
"""submitit sends SIGUSR2 to its job and the job's children, and requeues the job itself."""
_BEFORE_TRAINING = (signal.SIGTERM, REQUEUE_SIGNAL, signal.SIGUSR2)
INTERRUPTED_CODES = (*(128 + int(s) for s in _WATCHED), *(-int(s) for s in _WATCHED))
"""Exit codes of a run that was asked to stop, by itself or by the signal."""
_watching = False
"""Whether a signal stops the process at once. The handlers stay: the trainer restores them at its end."""


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
    """Records the signals that ask a run to stop, so that a step is never interrupted.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.signum = 0
        """The signal that came, 0 for none."""

    def install(self, signum: int = 0) -> None:
        """Install the handlers, until the trainer restores those of before; only a main thread can.

        Args:
            signum: a signal that came before, 0 for none.
        """
        self.signum = signum
        end_watch()
        if threading.current_thread() is threading.main_thread():
            for watched in _WATCHED:
                signal.signal(watched, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        if _is_first_process():
            print(
                f"rome: {signal.Signals(signum).name}: stopping after this step", file=sys.stderr, flush=True
            )


def watch_from_start() -> None:
    """Stop cleanly at a signal that arrives before ``StopRequest.install``.

    While modules are imported, data is opened, or validation is tried.
    """
    global _watching
    _watching = True
    if threading.current_thread() is threading.main_thread():
        for signum in _BEFORE_TRAINING:
            signal.signal(signum, _stop_at_once)


def end_watch() -> None:
    """Ignore the signals of ``watch_from_start`` from now on.

    ``StopRequest`` handles them, or they come too late: a warning must not requeue a run that has finished or
    failed, and a scheduler's SIGTERM must not interrupt the closing of a stopped run.
    """
    global _watching
    _watching = False


def _stop_at_once(signum: int, frame: FrameType | None) -> None:
    if not _watching:
        return
    # SLURM sends SIGTERM to a job that it queues again.
    end_watch()
    message = f"stopped by {signal.Signals(signum).name} before the first step"
    if signum == REQUEUE_SIGNAL and _is_first_process() and requeue_job():
        message += " (requeued)"
    raise RunStopped(signum, message)


def _is_first_process() -> bool:
    """Whether this is the run's main process."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


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
        warnings.warn(
            f"job {job} could not be requeued: {error}; submit it again to resume where it stopped",
            stacklevel=2,
        )
        return False
    if answer.returncode:
        why = answer.stderr.strip() or answer.stdout.strip()
        warnings.warn(f"scontrol requeue {job} failed: {why}", stacklevel=2)
    return answer.returncode == 0
