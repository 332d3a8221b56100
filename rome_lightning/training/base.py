"""The base class that ``rome fit`` expects of ``--model``."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from rome_lightning.data import AvatarBatch, Rendered
from rome_lightning.models import FullAvatar
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.training.config import OptimizerConfig


class RomeModule(LightningModule):
    """An avatar model with an optimizer; subclasses define the objective."""

    avatar: FullAvatar

    def __init__(self, optimizer: OptimizerConfig, image_size: int) -> None:
        super().__init__()
        self.optimizer_config = optimizer
        self.image_size = image_size

    def reproduce(self, batch: AvatarBatch, background: torch.Tensor | float) -> Rendered:
        """Draw every target of the batch from its source."""
        return self.avatar(batch.source, batch.target.params, background)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with warm-up and an optional cosine over the planned steps."""
        config = self.optimizer_config
        trained = [p for p in self.avatar.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, config.learning_rate, betas=(config.beta1, config.beta2))
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
            if config.schedule == "constant" or not math.isfinite(total):
                return warm
            progress = min(1.0, step / max(1, total))
            return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the architecture as plain data, so that the weights can be used without Lightning."""
        checkpoint[CONFIG_KEY] = dataclasses.asdict(self.avatar.config)
        checkpoint["image_size"] = self.image_size
