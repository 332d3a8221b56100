"""Runs of ``rome fit`` in killable processes; as a program: a server that forks them.

A new process spends most of its time on imports. The server imports once and forks for each part of a
run, before anything is computed that a fork could not take along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class RunServer:
    """Starts the parts of runs in order."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self,
        *arguments: object,
        log: Path,
        kill_at_step: int | None = None,
        kill_after_s: float | None = None,
        send: tuple[int, int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> int:
        """Run ``rome`` and return its exit code, negative if a signal killed it.

        Args:
            arguments: of ``rome``.
            log: file for its output.
            kill_at_step: SIGKILL itself at the end of this step.
            kill_after_s: seconds until SIGKILL.
            send: (step, signal) to send to itself in the middle of a step.
            environment: variables to set.
        """
        part = {
            "arguments": [str(argument) for argument in arguments],
            "log": str(log),
            "kill_at_step": kill_at_step,
            "kill_after_s": kill_after_s,
            "send": send,
            "environment": environment or {},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(part) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _act_at_step(step: int, action: Any, hook: str) -> None:
    from rome_lightning.callbacks import RunCheckpoint

    original = getattr(RunCheckpoint, hook)

    def acting(self: Any, trainer: Any, *more: Any) -> None:
        original(self, trainer, *more)
        if trainer.fit_loop.total_batch_idx == step:
            action()

    setattr(RunCheckpoint, hook, acting)


def _child(part: dict[str, Any]) -> int:
    from rome_lightning.cli import main as cli

    os.environ.update(part["environment"])
    descriptor = os.open(part["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if part["kill_at_step"] is not None:
        _act_at_step(part["kill_at_step"], lambda: os.kill(os.getpid(), signal.SIGKILL), "on_train_batch_end")
    if part["send"] is not None:
        step, signum = part["send"]
        _act_at_step(step, lambda: os.kill(os.getpid(), signum), "on_train_batch_start")
    return cli.main(part["arguments"])


def _serve() -> None:
    # What a part would import first of all.
    import torch

    import datamodules.talking_heads  # noqa: F401
    import rome_lightning.cli.fit  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        part = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _child(part)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        timer = None
        if part["kill_after_s"] is not None:
            timer = threading.Timer(part["kill_after_s"], os.kill, (pid, signal.SIGKILL))
            timer.start()
        _, status = os.waitpid(pid, 0)
        if timer is not None:
            timer.cancel()
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
