"""When a run writes its checkpoints, and what they say about it."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from rome_lightning.callbacks.run_logger import RunCSVLogger
from rome_lightning.media.provenance import code_and_versions
from rome_lightning.media.stopping import REQUEUE_SIGNAL, RunStopped, StopRequest, end_watch, requeue_job
from rome_lightning.training.checkpointing import BEST, LAST, RUN_KEY, copy_as, rotate, set_aside_damaged


class RunCheckpoint(Checkpoint):
    """Keep ``last.ckpt``, ``previous.ckpt`` and ``best.ckpt`` in the run folder's ``checkpoints/``.

    ``last`` is written after each validation, at the end of each epoch, at intervals of steps or minutes,
    and when a signal or an error stops the run. Each is a state between two steps, from which a run
    resumes as if it had not stopped. A step is a batch, however many optimizers it serves.

    Args:
        monitor: logged metric that decides which checkpoint is the best.
        mode: whether a small (``min``) or a large (``max``) value is good.
        every_n_steps: also write ``last`` after this many steps.
        every_n_minutes: also write ``last`` this long after the previous one.
        long_validation_s: a run stops inside of a validation that is expected to take longer; so ``last``
            is also written before it.
    """

    def __init__(
        self,
        monitor: str = "val/lpips",
        mode: Literal["min", "max"] = "min",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 15.0,
        long_validation_s: float = 30.0,
    ) -> None:
        super().__init__()
        for name, value in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} of RunCheckpoint must be positive, or null for never; got {value}")
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.long_validation_s = long_validation_s
        self.best_model_score: float | None = None
        self._folder = Path()
        self._facts: dict[str, Any] = {}
        self._request = StopRequest()
        self._saved_steps: int | None = None
        self._saved_at_s = 0.0
        self._failure: str | None = None
        self._between_steps = False
        # Of the last validation, on the slowest rank; the first one is taken for long.
        self._validation_s, self._validation_start_s = math.inf, 0.0
        self._can_leave = False
        # Of each validation loader, on all ranks.
        self._common_batches: list[float] = []

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, empty while there is none."""
        path = self._folder / BEST
        return str(path) if self.best_model_score is not None and path.is_file() else ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        self._folder = Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch for signals; remove what was logged after the checkpoint that the run resumes from."""
        # In place of Lightning's handlers, which save in the middle of a step. Its teardown restores those of
        # before all of them.
        self._request.install(signal.SIGTERM if trainer.received_sigterm else 0)
        self._saved_at_s = time.monotonic()
        if not (self._folder / BEST).is_file():
            # The score is of a run in another folder and its checkpoint is there: this one begins anew.
            self.best_model_score = None
        steps = _steps_done(trainer)
        last = self._folder / LAST
        resumed_from_last = trainer.ckpt_path is not None and Path(trainer.ckpt_path) == last
        self._saved_steps = steps if steps == 0 or resumed_from_last else None
        self._facts = self._describe(trainer)
        if trainer.is_global_zero:
            set_aside_damaged(last)
            for logger in trainer.loggers:
                if isinstance(logger, RunCSVLogger):
                    logger.drop_rows_from(steps)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: save or stop if it is time."""
        # The number that loggers show: the batch's, wherever the checkpoint to resume from was taken.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.fit_loop.total_batch_idx
        self._between_steps = True
        signum, due = self._agree(trainer)
        if due or signum:
            self._save_last(trainer)
        if signum:
            self._stop(trainer, signum)
        self._between_steps = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """From here to the next batch a run can resume from this state."""
        self._between_steps = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation that may outlast the warning of a time limit.

        While validating, averaged weights may stand in for the trained ones, so that nothing can be saved.
        """
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._can_leave = self._validation_s >= self.long_validation_s and self._save_last(trainer)
            self._validation_start_s = time.monotonic()
            # Agreeing on more batches than every rank has would wait forever.
            self._common_batches = [-n for n in _largest(trainer, *(-n for n in trainer.num_val_batches))]
        self._between_steps = False

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop during a long validation; the resumed run continues with the next step."""
        if (
            self._can_leave
            and not trainer.sanity_checking
            and batch_idx < self._common_batches[dataloader_idx]
        ):
            signum, _ = self._agree(trainer)
            if signum:
                self._stop(trainer, signum)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and keep it as the best if it is.

        Raises:
            ValueError: the monitored metric is not among those logged.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._between_steps, self._can_leave = True, False
        [self._validation_s] = _largest(trainer, time.monotonic() - self._validation_start_s)
        # What was saved before the validation does not know its result.
        self._saved_steps = None
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(
                f"RunCheckpoint has monitor = {self.monitor}, which is not logged; set it to one of: {logged}"
            )
        score = float(trainer.callback_metrics[self.monitor])
        before = self.best_model_score
        # NaN compares false with everything, so it is never the best.
        better = score < (before if before is not None else math.inf)
        if self.mode == "max":
            better = score > (before if before is not None else -math.inf)
        if better:
            self.best_model_score = score
        saved = self._save_last(trainer)
        if better and not saved:
            self.best_model_score = before
        elif better and trainer.is_global_zero and (self._folder / LAST).is_file():
            copy_as(self._folder / LAST, self._folder / BEST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless validation did."""
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the current state, unless the error left a step half done."""
        end_watch()
        # One rank's error is no moment at which all of them can save.
        if self._between_steps and trainer.world_size == 1 and not isinstance(exception, RunStopped):
            self._save_last(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail the run if its last state could not be saved.

        Raises:
            OSError: see above.
        """
        if self._failure is not None:
            raise OSError(f"the run is finished, but its last state was not saved: {self._failure}")

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"monitor": self.monitor, "best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``; another monitored metric starts afresh."""
        if state_dict["monitor"] == self.monitor:
            self.best_model_score = state_dict["best_model_score"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts of the run; bring Lightning's counters into the form that it restores well."""
        checkpoint[RUN_KEY] = {
            **self._facts,
            "steps": _steps_done(trainer),
            "epoch": trainer.current_epoch,
        }
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counters in (progress["total"], progress["current"]):
            # A fetched batch is not a step: the resumed run fetches it again.
            counters["ready"] = counters["started"] = counters["processed"] = counters["completed"]
        progress["is_last_batch"] = progress["current"]["completed"] == trainer.num_training_batches

    def _describe(self, trainer: Trainer) -> dict[str, Any]:
        config = Path(trainer.default_root_dir) / "config.yaml"
        return {
            "code": code_and_versions(),
            "config": config.read_text() if config.is_file() else None,
            "dataset_hash": getattr(getattr(trainer, "datamodule", None), "dataset_hash", None),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", -1)),
            "world_size": trainer.world_size,
        }

    def _agree(self, trainer: Trainer) -> tuple[int, bool]:
        """Whether to stop and whether to save, the same on all ranks."""
        due = False
        if self.every_n_steps is not None:
            due = _steps_done(trainer) % self.every_n_steps == 0
        if self.every_n_minutes is not None:
            due = due or time.monotonic() - self._saved_at_s >= 60 * self.every_n_minutes
        signum, due_anywhere = _largest(trainer, self._request.signum, due)
        return int(signum), bool(due_anywhere)

    def _save_last(self, trainer: Trainer) -> bool:
        """Write ``last.ckpt``; false if the disk did not take it, which training survives."""
        steps = _steps_done(trainer)
        if getattr(trainer, "fast_dev_run", False) or steps == self._saved_steps:
            return self._failure is None
        self._saved_steps, self._saved_at_s = steps, time.monotonic()
        error = self._write(trainer)
        if error is not None:
            self._failure = f"after {steps} steps: {error}"
            rank_zero_warn(f"no checkpoint {self._failure}; the previous one is kept, training continues")
        # One rank writes, and all must know the outcome, which decides where they synchronize next.
        [failed] = _largest(trainer, error is not None)
        if error is None:
            self._failure = f"after {steps} steps, by another process" if failed else None
        return not failed

    def _write(self, trainer: Trainer) -> OSError | None:
        """Write ``last.ckpt``; return the error on this rank, if any."""
        new = self._folder / ".new.ckpt"
        try:
            trainer.save_checkpoint(new)
        except OSError as error:
            # The other ranks wait here at the end of `save_checkpoint`.
            trainer.strategy.barrier()
            return error
        try:
            if trainer.is_global_zero:
                rotate(new)
        except OSError as error:
            return error
        return None

    def _stop(self, trainer: Trainer, signum: int) -> None:
        name = signal.Signals(signum).name
        message = f"stopped by {name} after {_steps_done(trainer)} steps"
        if self._failure is None and (self._folder / LAST).is_file():
            message += f"; resume with --ckpt-path {self._folder / LAST}"
        elif not _steps_done(trainer):
            message += "; there is nothing to resume: start it again"
        if signum == REQUEUE_SIGNAL and trainer.is_global_zero and requeue_job():
            message += " (requeued)"
        raise RunStopped(signum, message)


def _steps_done(trainer: Trainer) -> int:
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)


def _largest(trainer: Trainer, *values: float) -> list[float]:
    """The largest of all ranks' values, each by itself; every rank has to ask."""
    own = [float(value) for value in values]
    if trainer.world_size == 1:
        return own
    return trainer.strategy.reduce(
        torch.tensor(own, device=trainer.strategy.root_device), reduce_op="max"
    ).tolist()
