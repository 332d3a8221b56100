"""Train two ranks with different clocks, disks and numbers of validation batches; takes the run folder.

A separate program, because Lightning starts the other rank by running the same program again.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from rome_lightning.callbacks import RunCheckpoint
from rome_lightning.training.checkpointing import RUN_KEY, RunCheckpointIO


class _Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            self.log("val/score", self.layer(batch).mean(), add_dataloader_idx=False, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(4, 3))

    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(torch.ones(3, 3)), DataLoader(torch.ones(5 - self.global_rank, 3))]


class _OtherClock(RunCheckpoint):
    """On rank 1 validation takes forever, or almost."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start_s -= 1000.0 * trainer.global_rank
        super().on_validation_end(trainer, pl_module)


class _FullDisk(RunCheckpointIO):
    """The disk is full when the checkpoints before and after the second validation are written."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if checkpoint[RUN_KEY]["steps"] == 8:
            raise OSError(28, "No space left on device")
        super().save_checkpoint(checkpoint, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Trainer(
        default_root_dir=sys.argv[1],
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=20)),
        use_distributed_sampler=False,
        max_epochs=4,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=[_OtherClock("val/score", long_validation_s=100.0)],
        plugins=[_FullDisk()],
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(_Module())
