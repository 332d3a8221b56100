"""Training of the full, non-linear avatar."""

from __future__ import annotations

from pathlib import Path

import torch
from torchmetrics import Metric

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
            raise ValueError(
                f"image_size must be divisible by {divisor} (the decoder halves it "
                f"{avatar.decoder.num_levels - 1} times), got {image_size}; set data.init_args.image_size"
            )
        self.avatar = FullAvatar(avatar)
        self.objective = Objective(losses, self.avatar.head)
        if init_from is not None:
            load_state(self.avatar, avatar_weights(read_checkpoint(init_from)), init_from)
        self.psnr = PSNR()
        self.ssim = SSIM()
        self.lpips = LPIPS("alex", resolve("lpips_alexnet"))

    def training_step(self, batch: AvatarBatch, batch_idx: int) -> torch.Tensor:
        """Reproduce the targets on a random background and score the result."""
        # A random background keeps colour from leaking into a too small mask (ROME sec. 3.4).
        background = torch.rand(len(batch.target), 3, device=self.device)
        rendered = self.reproduce(batch, background)
        terms = self.objective(rendered, batch, background)
        if not torch.isfinite(terms.total):
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in terms.raw.items())
            raise ValueError(f"the loss is not finite at step {self.global_step}: {values}")
        self.log_dict(terms.as_logs("train"), batch_size=len(batch))
        self.log("loss", terms.total.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return terms.total

    def validation_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        """Self-reenactment on a white background."""
        self._score(batch, "val")

    def test_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        """The same scores on the test split."""
        self._score(batch, "test")

    def _score(self, batch: AvatarBatch, stage: str) -> None:
        rendered = self.reproduce(batch, 1.0)
        target = batch.target
        wanted = torch.lerp(torch.ones_like(target.image), target.image, target.foreground_mask)
        metrics: dict[str, Metric] = {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips}
        for name, metric in metrics.items():
            metric.update(rendered.image.clamp(0, 1), wanted)
            self.log(f"{stage}/{name}", metric, prog_bar=name != "ssim", batch_size=len(batch))
