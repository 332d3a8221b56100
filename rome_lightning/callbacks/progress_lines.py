"""Training progress without a terminal: occasional lines, where a bar would fill the log."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from rome_lightning.media.remaining import time_left


class ProgressLines(ProgressBar):
    """Print epoch, step, loss and the time left to stderr.

    Args:
        every_s: shortest time between two lines, seconds; the last step of an epoch has one always.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._is_shown = True
        self._start = self._last = 0.0
        self._first: int | None = None

    def disable(self) -> None:
        """Print nothing: another process does."""
        self._is_shown = False

    def enable(self) -> None:
        """Print again."""
        self._is_shown = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember where this part of the run began."""
        if self._first is None:
            self._start = self._last = time.monotonic()
            self._first = _step(trainer, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print, if it is time."""
        now, num_batches = time.monotonic(), trainer.num_training_batches
        is_last = batch_idx + 1 == num_batches
        if not self._is_shown or not (is_last or now - self._last >= self.every_s):
            return
        self._last = now
        epochs = trainer.max_epochs or 0
        words = [f"epoch {trainer.current_epoch + 1}" + (f" of {epochs}" if epochs > 0 else "")]
        words.append(f"step {batch_idx + 1} of {num_batches}")
        loss = trainer.progress_bar_metrics.get("loss")
        if loss is not None:
            words.append(f"loss {float(loss):.4g}")
        if math.isfinite(num_batches):
            first = self._first or 0
            done, total = _step(trainer, batch_idx) + 1 - first, epochs * int(num_batches) - first
            words.append(time_left(now - self._start, done, total))
        print(", ".join(filter(None, words)), file=sys.stderr, flush=True)


def _step(trainer: Trainer, batch_idx: int) -> int:
    """Steps before this one, over all epochs; of this epoch, where nobody knows how long one is."""
    num_batches = trainer.num_training_batches
    return batch_idx + (trainer.current_epoch * int(num_batches) if math.isfinite(num_batches) else 0)
