"""``rome`` with all random numbers of a step fixed, and a rank that fails as the environment demands.

A separate program, because Lightning starts the other ranks by running the same program again.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

from rome_lightning.cli import main as cli
from rome_lightning.training import FullModule


def half(*size: int, **options: Any) -> torch.Tensor:
    """In place of ``torch.rand``, of which every rank draws its own numbers and sees its own backgrounds."""
    options.pop("generator", None)
    return torch.full(size, 0.5, **options)


def _fail(failure: str, step: int) -> None:
    """Make rank 1 fail at a step."""
    original = FullModule.training_step

    def training_step(self: FullModule, batch: Any, batch_idx: int) -> Any:
        if self.global_rank == 1 and self.trainer.fit_loop.total_batch_idx == step:
            if failure == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if failure == "error":
                raise ValueError("this batch is broken")
            if failure == "nan":
                batch.target.image.fill_(torch.nan)
            if failure == "terminated":
                os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    FullModule.training_step = training_step


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.rand = half
    if "FAIL" in os.environ:
        kind, at = os.environ["FAIL"].split("@")
        _fail(kind, int(at))
    sys.exit(cli.main(sys.argv[1:]))
