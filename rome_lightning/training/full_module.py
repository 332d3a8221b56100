"""Training of the full, non-linear avatar."""

from __future__ import annotations

from pathlib import Path

import torch

from rome_lightning.assets import resolve
from rome_lightning.data import AvatarBatch
from rome_lightning.metrics import LPIPS, PSNR, SSIM
from rome_lightning.models import AvatarConfig, FullAvatar
from rome_lightning.models.checkpoint import avatar_weights, load_state, read_checkpoint
from rome_lightning.training.base import RomeModule
from rome_lightning.training.config import LossConfig, OptimizerConfig
from rome_lightning.training.objective import Objective


class FullModule(RomeModule):
    """Self-supervised training on pairs of frames of one clip.

    Source: ROME sec. 3.4. Departure from ROME: the adversarial and identity terms are not part of this
    objective yet.

    Args:
        avatar: architecture of the model.
        losses: weights of the objective.
        optimizer: Adam and its schedule.
        image_size: side of the images, pixels; linked from the data.
        init_from: checkpoint whose weights are the initial ones; the run itself starts anew.
    """

    def __init__(
        self,
        avatar: AvatarConfig,
        losses: LossConfig,
        optimizer: OptimizerConfig,
        image_size: int = 256,
        init_from: Path | None = None,
    ) -> None:
        super().__init__(optimizer, image_size)
        self.save_hyperparameters()
        divisor = 2 ** (avatar.decoder.num_levels - 1)
        if image_size % divisor:
            values = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.raw.items())
            raise ValueError(f"the loss is not finite at step {self.global_step}: {values}")
        self.log_dict(terms.as_logs("train"), batch_size=len(batch))
        self.log("loss", terms.total.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return terms.total

    def validation_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        """Self-reenactment on a white background."""
        rendered = self.reproduce(batch, 1.0)
        target = batch.target
        wanted = torch.lerp(torch.ones_like(target.image), target.image, target.foreground_mask)
        for name, metric in (("psnr", self.val_psnr), ("ssim", self.val_ssim), ("lpips", self.val_lpips)):
            metric.update(rendered.image.clamp(0, 1), wanted)
            self.log(f"val/{name}", metric, prog_bar=name != "ssim", batch_size=len(batch))
