"""The base class that ``rome fit`` expects of ``--model``."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric

from rome_lightning.assets import resolve
from rome_lightning.data import AvatarBatch, Rendered
from rome_lightning.metrics import LPIPS, PSNR, SSIM
from rome_lightning.models import FullAvatar
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.training.config import OptimizerConfig
from rome_lightning.training.optimization import build_adam, build_schedule, finish_gradients


class RomeModule(LightningModule):
    """An avatar model, its optimizers and the scores of validation; subclasses define the objective.

    Optimization is manual: a ``training_step`` computes a loss and gives it to ``descend``. The first
    optimizer, that of the avatar, is the one that ``global_step``, ``max_steps`` and the callbacks count;
    further ones step along without being counted.

    Args:
        avatar: the model to train.
        optimizer: Adam and its schedule, for the avatar.
        image_size: side of the images, pixels.
    """

    def __init__(self, avatar: FullAvatar, optimizer: OptimizerConfig, image_size: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.avatar = avatar
        self.optimizer_config = optimizer
        self.image_size = image_size
        self.psnr = PSNR()
        self.ssim = SSIM()
        self.lpips = LPIPS("alex", resolve("lpips_alexnet"))
        self._scalers: list[torch.amp.GradScaler] = []

    def trained_parts(self) -> list[tuple[nn.Module, OptimizerConfig]]:
        """Networks with an optimizer each, the avatar first."""
        return [(self.avatar, self.optimizer_config)]

    def reproduce(self, batch: AvatarBatch, background: Tensor | float) -> Rendered:
        """Draw every target of the batch from its source."""
        return self.avatar(batch.source, batch.target.params, background)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam per trained part, with warm-up and an optional cosine over the planned steps."""
        total = self.trainer.estimated_stepping_batches
        optimizers, schedules = [], []
        for network, config in self.trained_parts():
            optimizers.append(build_adam(network.parameters(), config))
            schedules.append(build_schedule(optimizers[-1], config, total))
        return optimizers, schedules

    def configure_model(self) -> None:
        """Tell distributed training what it need not synchronize."""
        self._leave_out_of_ddp()

    def _leave_out_of_ddp(self) -> None:
        """Buffers are constants, and ``descend`` averages the gradients of all parts but the first.

        Then every parameter that DDP knows has a gradient in its one backward pass, so that it need not
        search for unused ones.
        """
        extra = {id(p) for network, _ in self.trained_parts()[1:] for p in network.parameters()}
        names = [name for name, parameter in self.named_parameters() if id(parameter) in extra]
        names += [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def on_fit_start(self) -> None:
        """Take over the loss scaling of half precision, with one scaler per optimizer."""
        plugin = self.trainer.precision_plugin
        if self.trainer.precision == "16-mixed" and not self._scalers:
            self._scalers = [torch.amp.GradScaler(self.device.type) for _ in self.trained_parts()]
        if hasattr(plugin, "scaler"):
            plugin.scaler = None
        for network, _ in self.trained_parts()[1:]:
            for tensor in network.state_dict().values():
                tensor.copy_(self.trainer.strategy.broadcast(tensor))

    def descend(self, part: int, loss: Tensor) -> Tensor:
        """Backward pass and step of one optimizer; gradients that are not finite change nothing.

        Args:
            part: index in ``trained_parts``.
            loss: scalar.

        Returns:
            1 where the step was left out, else 0; a scalar on the device.
        """
        config = self.trained_parts()[part][1]
        handles, schedules = _as_list(self.optimizers()), _as_list(self.lr_schedulers())
        optimizer = handles[part].optimizer
        scaler = self._scalers[part] if self._scalers else None
        optimizer.zero_grad()
        scaled = loss if scaler is None else scaler.scale(loss)
        if part == 0:
            self.manual_backward(scaled)
        else:
            scaled.backward()
            self._average_gradients(optimizer)
        left_out = finish_gradients(optimizer, config.clip_norm, scaler)
        # Through Lightning's handle a step is counted; the count is that of the avatar's optimizer alone.
        (handles[part] if part == 0 else optimizer).step()
        schedules[part].step()
        return left_out

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Mean over the processes, for what DDP leaves alone."""
        if self.trainer.world_size == 1:
            return
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the architecture as plain data, so that the weights can be used without Lightning."""
        checkpoint[CONFIG_KEY] = dataclasses.asdict(self.avatar.config)
        checkpoint["image_size"] = self.image_size
        if self._scalers:
            checkpoint["scalers"] = [scaler.state_dict() for scaler in self._scalers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the loss scales that the run had."""
        states = checkpoint.get("scalers", [])
        self._scalers = [torch.amp.GradScaler(self.device.type) for _ in states]
        for scaler, state in zip(self._scalers, states, strict=True):
            scaler.load_state_dict(state)


def _as_list(value: Any) -> list[Any]:
    """Lightning unwraps lists of one."""
    return value if isinstance(value, list) else [value]
