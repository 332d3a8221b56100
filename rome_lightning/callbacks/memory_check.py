"""A run that cannot fit into memory is refused before its first step."""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from rome_lightning.renderer.mesh_check import bad_vertices_tolerated
from rome_lightning.training import RomeModule
from rome_lightning.training.finite import cleaned
from rome_lightning.training.memory import free_bytes, kept_bytes, optimizer_bytes, step_bytes
from rome_lightning.types import AvatarBatch


class MemoryCheck(Callback):
    """Compute one pair of the first batch, scale what it keeps to the whole batch, compare with what is free.

    Data workers, library caches and other programs need memory too, so the estimate is a lower bound.

    Args:
        refuse: end the run if memory does not suffice; else only warn.
    """

    def __init__(self, refuse: bool = True) -> None:
        super().__init__()
        self.refuse = refuse
        self._is_done = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check once, before the first step.

        Raises:
            ValueError: the memory does not suffice; names what to change.
        """
        if self._is_done or not isinstance(batch, AvatarBatch) or not isinstance(pl_module, RomeModule):
            return
        self._is_done = True
        if pl_module.execution.compile_networks:
            # One pair would be compiled for itself.
            return
        step = step_bytes(_kept_of_one(trainer, pl_module, batch), len(batch))
        optimizer, free = optimizer_bytes(pl_module), free_bytes(pl_module.device)
        pairs = "1 pair" if len(batch) == 1 else f"{len(batch)} pairs"
        text = f"a step of {pairs} takes about {_gb(step)} GB, gradients and optimizer {_gb(optimizer)} GB"
        if free is None or step + optimizer <= free:
            rank_zero_info(text if free is None else f"{text}; {_gb(free)} GB are free")
            return
        fitting = int(len(batch) * max(free - optimizer, 0) / step)
        change = (
            f"data.init_args.batch_size to {fitting}" if fitting else "a smaller data.init_args.image_size"
        )
        message = (
            f"{text}, but only {_gb(free)} GB are free on {pl_module.device}: set {change}, or use smaller "
            "networks (full/cpu); --memory-check warn continues anyway"
        )
        if self.refuse:
            raise ValueError(message)
        rank_zero_warn(message)


def _kept_of_one(trainer: Trainer, module: RomeModule, batch: AvatarBatch) -> int:
    """Bytes that one pair of the batch keeps for the backward pass; the module stays as it was."""
    # Numbers that are not finite cost the step that they are in; here they must not matter.
    batch = cleaned(batch)
    one = dataclasses.replace(
        batch,
        source=batch.source[:1],
        target=batch.target[: batch.num_driving],
        clips=batch.clips[:1],
    )
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    # Stands before SeedEachStep: the random numbers of the step are those that it always has.
    with trainer.strategy.precision_plugin.train_step_context(), bad_vertices_tolerated():
        kept = kept_bytes(lambda: module.loss_of(one), module)
    for buffer, before in buffers:
        # Running statistics and power iterations move in every forward pass.
        buffer.copy_(before)
    return kept


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"
