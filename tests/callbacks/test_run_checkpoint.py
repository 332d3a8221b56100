"""A run that was cut anywhere ends as the uninterrupted one; a module of a few numbers stands for a model."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, Dataset

from datamodules.resuming import current_position
from datamodules.sampler import TrainingSampler
from rome_lightning.callbacks import RunCheckpoint, SeedEachStep
from rome_lightning.callbacks.run_logger import RunCSVLogger
from rome_lightning.training.checkpointing import (
    RunCheckpointIO,
    newest_valid,
)

STEPS_PER_EPOCH = 5


class _Numbers(Dataset):
    def __getitem__(self, place: tuple[int, int]) -> torch.Tensor:
        epoch, position = place
        generator = torch.Generator().manual_seed(1000 * epoch + position)
        return torch.randn(3, generator=generator)


class _Data(LightningDataModule):
    """Steps of one sample whose place in the stream is kept as the real datamodule keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.start: tuple[int, int] = (0, 0)

    def train_dataloader(self) -> DataLoader:
        sampler = TrainingSampler(STEPS_PER_EPOCH, 1, 1, 0, *self.start)
        return DataLoader(_Numbers(), batch_size=1, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(2, 3), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        at = current_position(self.trainer, 1)
        return {"start": (at.epoch, at.position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = tuple(state_dict["start"])


class _Module(LightningModule):
    """Two networks, two optimizers, a schedule, noise in the step: what can go wrong in a real one."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(3, 3), nn.Linear(3, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        noisy = self.generator(batch + torch.randn_like(batch))
        losses = (self.discriminator(noisy).square().mean(), self.discriminator(noisy.detach()).mean() + 1)
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.log("train/loss", losses[0].detach())

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        torch.randn(7)  # What validation draws must not change training.
        self.log("val/score", self.generator(batch).mean())

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.Adam(part.parameters(), 0.05) for part in (self.generator, self.discriminator)
        ]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.97) for o in optimizers]


class _Cut(Callback):
    """Ends the process's run at a step, as kill -9 does: nothing is saved or closed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            raise _Killed


class _Killed(BaseException):
    pass


class _Unsaved(RunCheckpoint):
    """Dies without a word where the process would be dead."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, _Killed):
            super().on_exception(trainer, pl_module, exception)


def _fit(folder: Path, *more: Callback, resume: bool = False, epochs: int = 3, **options: Any) -> _Module:
    seed_everything(0, verbose=False)
    module = _Module()
    checkpoint = _Unsaved("val/score", every_n_steps=options.pop("every_n_steps", None))
    ema = EMAWeightAveraging(decay=0.5, use_buffers=False)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=RunCSVLogger(folder),
        log_every_n_steps=1,
        num_sanity_val_steps=options.pop("num_sanity_val_steps", 0),
        callbacks=[SeedEachStep(), *more, ema, checkpoint],
        plugins=[RunCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    path = newest_valid(folder / "checkpoints") if resume else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=_Data(), ckpt_path=path)
    return module


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _same(a: _Module, b: _Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, range(0, 15, 3)),
        ({"every_n_steps": 1}, range(0, 15, 2)),
        ({"every_n_steps": 1, "val_check_interval": 2}, range(15)),
        ({"every_n_steps": 3, "check_val_every_n_epoch": 2}, range(1, 15, 3)),
        ({"every_n_steps": 2, "num_sanity_val_steps": 1}, range(2, 15, 4)),
        ({"every_n_steps": 5}, range(4, 11)),
        ({"every_n_steps": 2, "limit_val_batches": 0}, range(1, 15, 3)),
    ],
    ids=str,
)
def test_a_run_cut_at_any_step_ends_as_the_whole_one(
    options: dict[str, Any], steps: range, tmp_path: Path
) -> None:
    whole = _fit(tmp_path / "whole", **options)
    last = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    for step in steps:
        folder = tmp_path / f"cut-{step}"
        # Killed again and again, a run gets on as far as its checkpoints do.
        for cut in (step, step + 1, step + 4, 99):
            try:
                resumed = _fit(folder, _Cut(cut), resume=True, **options)
            except _Killed:
                continue
            break
        assert _rows(folder) == _rows(tmp_path / "whole"), step
        assert _same(resumed, whole), step
        again = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops"):
            torch.testing.assert_close(again[key], last[key], rtol=0, atol=0)
