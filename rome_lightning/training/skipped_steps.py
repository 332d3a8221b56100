"""Steps that were skipped because a value was not finite."""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from rome_lightning.media.atomic import atomic_file
from rome_lightning.training.finite import describe
from rome_lightning.types import AvatarBatch

FOLDER = "skipped_steps"
"""Where the batches are kept, in the run folder."""
_MAX_PENDING = 2
"""Steps that the device may be ahead of the count."""
_MAX_SAVED = 3
"""Batches that one process saves."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step whose verdict has not arrived yet."""

    number: int
    left_out: Tensor
    """1 or 0, on the host once ``copied`` has happened."""
    copied: torch.cuda.Event | None
    batch: AvatarBatch
    values: dict[str, Tensor]


class SkippedSteps:
    """Count skipped steps, save the first batches for inspection, and end a run that has too many.

    On a GPU the verdict of a step is read when it arrives, at most two steps later, so that the host does not
    wait for the device at every step.

    Args:
        budget: steps that may be skipped; one more is an error.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.count = 0
        self._num_saved = 0
        self._pending: deque[_Step] = deque()

    def note(
        self, number: int, left_out: Tensor, batch: AvatarBatch, values: dict[str, Tensor], folder: Path
    ) -> None:
        """Take a step into account.

        Args:
            number: of the step.
            left_out: 1 if the step was skipped, else 0; a scalar on the device.
            batch: what the step was computed from.
            values: terms of the loss.
            folder: of the run.

        Raises:
            ValueError: more steps than the budget were skipped.
        """
        event = None
        if left_out.is_cuda:
            host = torch.empty((), dtype=left_out.dtype, pin_memory=True)
            left_out = host.copy_(left_out, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append(_Step(number, left_out, event, batch, values))
        while self._pending and self._has_arrived(self._pending[0]):
            self._settle(self._pending.popleft(), folder)

    def finish(self, folder: Path) -> None:
        """Wait for the verdict of the last steps."""
        while self._pending:
            step = self._pending.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            self._settle(step, folder)

    def _has_arrived(self, step: _Step) -> bool:
        if step.copied is None or step.copied.query():
            return True
        if len(self._pending) > _MAX_PENDING:
            step.copied.synchronize()
            return True
        return False

    def _settle(self, step: _Step, folder: Path) -> None:
        if not bool(step.left_out):
            return
        self.count += 1
        values = ", ".join(f"{name} {float(value):.3g}" for name, value in step.values.items())
        saved = self._save(step, folder / FOLDER) if self._num_saved < _MAX_SAVED else None
        where = f"; its batch is in {saved}" if saved is not None else ""
        what = describe(step.batch) or "gradients"
        reason = f"{what} were not finite at step {step.number} ({values}){where}"
        if self.count > self.budget:
            raise ValueError(
                f"{reason}; that makes {self.count} such steps, and optimizer.skip_budget allows "
                f"{self.budget}: lower optimizer.learning_rate, set "
                "optimizer.clip_norm, or remove the faulty frames"
            )
        rank_zero_warn(f"{reason}; the step was skipped ({self.count} of at most {self.budget})")

    def _save(self, step: _Step, folder: Path) -> Path:
        """Write the batch as plain data, to be read by ``torch.load(path, weights_only=True)``."""
        self._num_saved += 1
        path = folder / f"step_{step.number:07d}_rank_{torch_rank()}.pt"
        content: dict[str, Any] = dataclasses.asdict(step.batch.to("cpu"))
        with atomic_file(path) as file:
            torch.save(content | {"step": step.number}, file)
        return path


def torch_rank() -> int:
    """Number of this process among those that train together."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
