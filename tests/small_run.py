"""Training of a tiny module that stands in for a model, and ways to interrupt it."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, Dataset

from datamodules.resuming import current_position
from datamodules.sampler import TrainingSampler
from rome_lightning.callbacks import RunCheckpoint, SeedEachStep
from rome_lightning.callbacks.run_logger import RunCSVLogger
from rome_lightning.training.checkpointing import RUN_KEY, RunCheckpointIO, newest_valid

STEPS_PER_EPOCH = 5


class Numbers(Dataset):
    def __getitem__(self, place: tuple[int, int]) -> torch.Tensor:
        epoch, position = place
        generator = torch.Generator().manual_seed(1000 * epoch + position)
        return torch.randn(3, generator=generator)


class SmallData(LightningDataModule):
    """Steps of one sample, with the stream position stored as in the real data module."""

    def __init__(self) -> None:
        super().__init__()
        self.start: tuple[int, int] = (0, 0)

    def train_dataloader(self) -> DataLoader:
        sampler = TrainingSampler(STEPS_PER_EPOCH, 1, 1, 0, *self.start)
        return DataLoader(Numbers(), batch_size=1, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(2, 3), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        at = current_position(self.trainer, 1)
        return {"start": (at.epoch, at.position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = tuple(state_dict["start"])


class SmallModule(LightningModule):
    """Two networks, two optimizers, a schedule and noise in the step: all that can go wrong in a real one."""

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
        torch.randn(7)  # Random numbers drawn in validation must not change training.
        self.log("val/score", self.generator(batch).mean())

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.Adam(part.parameters(), 0.05) for part in (self.generator, self.discriminator)
        ]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.97) for o in optimizers]


class Cut(Callback):
    """Ends the run at a step like kill -9: nothing is saved or closed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            raise Killed


class Killed(BaseException):
    pass


class Unsaved(RunCheckpoint):
    """Dies silently where the process would be dead."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, Killed):
            super().on_exception(trainer, pl_module, exception)


def fit_small(
    folder: Path, *more: Callback, resume: bool = False, epochs: int = 3, **options: Any
) -> SmallModule:
    seed_everything(0, verbose=False)
    module = SmallModule()
    monitor, every_n_steps = options.pop("monitor", "val/score"), options.pop("every_n_steps", None)
    long_validation_s = options.pop("long_validation_s", 30.0)
    checkpoint = Unsaved(monitor, every_n_steps=every_n_steps, long_validation_s=long_validation_s)
    ema = EMAWeightAveraging(decay=0.5, use_buffers=False)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=options.pop("logger", None) or RunCSVLogger(folder),
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
        trainer.fit(module, datamodule=SmallData(), ckpt_path=path)
    return module


def saved_steps(folder: Path, name: str = "last") -> int:
    path = folder / "checkpoints" / f"{name}.ckpt"
    return int(torch.load(path, weights_only=True)[RUN_KEY]["steps"])


def logged_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_weights(a: SmallModule, b: SmallModule) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


class Break(Callback):
    """Raises an error between two steps, or in the middle of one."""

    def __init__(self, step: int, hook: str) -> None:
        self.step = step
        setattr(self, hook, self._act)

    def _act(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            raise ValueError("broken")
