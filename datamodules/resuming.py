"""Position in the stream of pairs, read from and written to Lightning's counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from lightning import Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker


@dataclass(frozen=True)
class StreamPosition:
    """A run's position in the stream."""

    epoch: int
    """The epoch that the next batch belongs to."""
    position: int
    """Pairs of that epoch seen so far, over all ranks, so another number of ranks can resume from it."""
    global_batch: int
    """Pairs per step over all ranks of the run that saved it."""


def current_position(trainer: Trainer, global_batch: int) -> StreamPosition:
    """Position after the last completed step.

    Reads ``processed``: while ``on_train_batch_end`` saves a checkpoint, ``completed`` is still one behind.
    """
    loop = trainer.fit_loop
    # `started` counts this epoch from its first step to the first step of the next one.
    epoch = max(_processed(loop.epoch_progress.current).started - 1, 0)
    steps = _processed(loop.epoch_loop.batch_progress.current).processed
    if steps and steps >= trainer.num_training_batches:
        return StreamPosition(epoch + 1, 0, global_batch)
    return StreamPosition(epoch, steps * global_batch, global_batch)


def adopt_progress(trainer: Trainer, start: StreamPosition, global_batch: int, pairs_per_epoch: int) -> None:
    """Make Lightning count the resumed epoch's steps in batches of the new size.

    It restores the number of finished steps; with another number of ranks the steps differ, and the epoch
    would end too early or too late.
    """
    if global_batch == start.global_batch:
        return
    progress = _processed(trainer.fit_loop.epoch_loop.batch_progress.current)
    finished = progress.processed > 0 and start.position == 0
    steps = (pairs_per_epoch if finished else start.position) // global_batch
    change = steps - progress.processed
    # All by the same amount, because their differences tell Lightning where the checkpoint was saved.
    progress.ready += change
    progress.started += change
    progress.processed += change
    progress.completed += change


def _processed(tracker: object) -> _ProcessedTracker:
    # Lightning declares the wider type that epochs of validation have.
    return cast("_ProcessedTracker", tracker)
