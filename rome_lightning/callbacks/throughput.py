"""Throughput of a run, and what it waits for."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from rome_lightning.types import AvatarBatch


class Throughput(Callback):
    """Log speed, waiting, memory and unreadable data with every row of training metrics.

    ``time/images_per_s``: target images over all processes. ``time/data_wait_ratio``: share of the time
    that this process spent between two steps, waiting for the next batch; on a GPU, which works on behind
    the process's back, an upper bound of what it costs. ``memory/peak_gb``: of the GPU, or of the process
    on a CPU (without data workers). ``data/skipped``: pairs that could not be read and were replaced.
    Validation, pictures and checkpoints are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended_s: float | None = None
        self._started_s = 0.0
        self._waited_s = self._worked_s = 0.0
        self._images = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The next wait is not for data."""
        self._ended_s = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nor is the first of an epoch."""
        self._ended_s = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here."""
        self._started_s = time.perf_counter()
        if self._ended_s is not None:
            self._waited_s += self._started_s - self._ended_s

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is done, or on its way on the GPU."""
        self._ended_s = time.perf_counter()
        self._worked_s += self._ended_s - self._started_s
        self._images += len(batch.target) if isinstance(batch, AvatarBatch) else len(batch)
        # The steps that Lightning logs.
        if (trainer.fit_loop.total_batch_idx + 1) % _log_interval(trainer):
            return
        total_s = self._waited_s + self._worked_s
        values = {
            "time/images_per_s": self._images * trainer.world_size / total_s,
            "time/data_wait_ratio": self._waited_s / total_s,
            "memory/peak_gb": peak_memory_gb(pl_module.device),
            "data/skipped": float(getattr(getattr(trainer, "datamodule", None), "pairs_skipped", 0)),
        }
        pl_module.log_dict(values, batch_size=1)
        self._waited_s = self._worked_s = 0.0
        self._images = 0


def _log_interval(trainer: Trainer) -> int:
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return interval or 1


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory in use so far, 1e9 bytes: PyTorch's on a GPU, the whole process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
