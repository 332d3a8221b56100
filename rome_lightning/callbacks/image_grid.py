"""Pictures of the validation set while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from rome_lightning.data import AvatarBatch
from rome_lightning.evaluation.pictures import comparison_rows, to_uint8
from rome_lightning.training.base import RomeModule


class ImageGrid(Callback):
    """Save a grid (source, target, render, mask, normals, mesh) after each validation.

    Files go to ``<run folder>/images/``; with a W&B logger they are logged as ``val/images`` too.

    Args:
        num_rows: pairs shown.
    """

    def __init__(self, num_rows: int = 6) -> None:
        super().__init__()
        self.num_rows = num_rows
        self._rows: dict[str, torch.Tensor] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of the epoch before."""
        self._rows = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: AvatarBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first pair of each clip, until there are enough rows."""
        new = [i for i, clip in enumerate(batch.clips) if clip not in self._rows]
        if not new or len(self._rows) >= self.num_rows or not trainer.is_global_zero:
            return
        pick = torch.tensor(new, device=batch.source.image.device)
        source, target = batch.source[pick], batch.target[pick * batch.num_driving]
        module = cast(RomeModule, pl_module)
        with torch.no_grad():
            rendered = module.reproduce(AvatarBatch(source, target), 1.0)
        for index, row in zip(new, comparison_rows(source, target, rendered).cpu(), strict=True):
            if len(self._rows) < self.num_rows:
                self._rows[batch.clips[index]] = row

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the grid."""
        if not self._rows or trainer.sanity_checking:
            return
        picture = to_uint8(torch.cat(list(self._rows.values()), dim=1))
        folder = Path(trainer.default_root_dir) / "images"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/images", [picture], step=trainer.global_step)
