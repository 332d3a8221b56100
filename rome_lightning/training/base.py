"""The base class that ``rome fit`` expects of ``--model``."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric

from rome_lightning.assets import resolve
from rome_lightning.metrics import LPIPS, PSNR, SSIM
from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.networks import CompactUNet, OffsetMLP, PatchDiscriminator, TextureEncoder, UNet
from rome_lightning.renderer.mesh_check import bad_vertices_tolerated
from rome_lightning.training.config import ExecutionConfig, OptimizerConfig
from rome_lightning.training.finite import RunningStatistics, cleaned, describe, finite_part, is_finite
from rome_lightning.training.optimization import build_adam, build_schedule, finish_gradients
from rome_lightning.training.skipped_steps import SkippedSteps
from rome_lightning.types import AvatarBatch, Region, Rendered

_COMPILED = (CompactUNet, OffsetMLP, PatchDiscriminator, TextureEncoder, UNet)
"""Networks that ``compile_networks`` compiles separately; the renderer between them is not compiled."""


class RomeModule(LightningModule):
    """An avatar model, its optimizers and the scores of validation; subclasses define the objective.

    Optimization is manual: ``train_on`` computes a loss and gives it to ``descend``. The first
    optimizer, that of the avatar, is the one that ``global_step`` and the callbacks count; further ones
    step along without being counted.

    Args:
        avatar: the model to train.
        optimizer: Adam and its schedule, for the avatar.
        image_size: side of the images, pixels.
        execution: how the networks are run.
    """

    def __init__(
        self,
        avatar: AvatarModel,
        optimizer: OptimizerConfig,
        image_size: int,
        execution: ExecutionConfig | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.avatar = avatar
        self.optimizer_config = optimizer
        self.image_size = image_size
        self.psnr = PSNR()
        self.ssim = SSIM()
        self.lpips = LPIPS("alex", resolve("lpips_alexnet"))
        self.execution = execution or ExecutionConfig()
        self._scalers: list[torch.amp.GradScaler] = []
        self._skipped = SkippedSteps(optimizer.skip_budget)
        self._left_out: list[Tensor] = []
        self._sound: list[Tensor] = []
        self._batch: AvatarBatch | None = None
        self._statistics: RunningStatistics | None = None
        self._is_configured = False

    def trained_parts(self) -> list[tuple[nn.Module, OptimizerConfig]]:
        """Networks with an optimizer each, the avatar first."""
        return [(self.avatar, self.optimizer_config)]

    def reproduce(self, batch: AvatarBatch, background: Tensor | float) -> Rendered:
        """Render every target of the batch from its source."""
        return self.avatar(batch.source, batch.target.params, background)

    def loss_of(self, batch: AvatarBatch) -> Tensor:
        """The avatar's loss on a batch, without a step; ``train_on`` minimizes it.

        Raises:
            NotImplementedError: the subclass has no objective.
        """
        # Only modules whose memory ``rome fit`` estimates have one.
        raise NotImplementedError(f"{type(self).__name__} does not define its loss")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam per trained part, with warm-up and an optional cosine over the planned steps."""
        total = self.trainer.estimated_stepping_batches
        optimizers, schedules = [], []
        for network, config in self.trained_parts():
            optimizers.append(build_adam(network.parameters(), config))
            schedules.append(build_schedule(optimizers[-1], config, total))
        return optimizers, schedules

    def configure_model(self) -> None:
        """Apply memory format and compilation before optimizers and DDP see the networks."""
        if self._is_configured:
            return
        self._is_configured = True
        if self.execution.channels_last:
            self.to(memory_format=torch.channels_last)
        if self.execution.compile_networks:
            for module in self.modules():
                if isinstance(module, _COMPILED):
                    module.compile()
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

    def training_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        """Train on a batch; if anything in it or computed from it is not finite, the step changes nothing."""
        self._batch, self._statistics = batch, RunningStatistics(self)
        # Non-finite numbers could become indices, so they are replaced, and the verdict skips the step.
        with bad_vertices_tolerated() as self._sound:
            self._sound.append(is_finite(batch))
            self.train_on(cleaned(batch), batch_idx)

    def train_on(self, batch: AvatarBatch, batch_idx: int) -> None:
        """Compute losses and ``descend`` them; subclasses define it.

        Args:
            batch: all numbers are finite.
            batch_idx: in the epoch.
        """
        # The full and the linear module each have their own; ``training_step`` needs one.
        raise NotImplementedError

    def descend(self, part: int, loss: Tensor) -> None:
        """Backward pass and step of one optimizer; a non-finite value on any process changes nothing.

        Args:
            part: index in ``trained_parts``.
            loss: scalar.
        """
        config = self.trained_parts()[part][1]
        handles, schedules = _as_list(self.optimizers()), _as_list(self.lr_schedulers())
        optimizer = handles[part].optimizer
        scaler = self._scalers[part] if self._scalers else None
        optimizer.zero_grad()
        # Gradients that are averaged tell all processes at once.
        sound = torch.stack([*self._sound, loss.detach().isfinite()]).all()
        loss = loss * torch.where(sound, 1.0, math.nan)
        scaled = loss if scaler is None else scaler.scale(loss)
        if part == 0:
            self.manual_backward(scaled)
        else:
            scaled.backward()
            self._average_gradients(optimizer)
        left_out = finish_gradients(optimizer, config.clip_norm, scaler)
        # Through Lightning's handle a step is counted; the count is that of the avatar's optimizer alone.
        (handles[part] if part == 0 else optimizer).step()
        # They would take memory during the next forward pass.
        optimizer.zero_grad()
        schedules[part].step()
        # With a scaler, gradients overflow now and then because the scale is probed: only the loss tells.
        if scaler is not None:
            left_out = self.trainer.strategy.reduce(1 - sound.float(), reduce_op="max")
        self._left_out.append(left_out)
        self._sound.append(left_out == 0)

    def end_step(self, batch: AvatarBatch, values: dict[str, Tensor]) -> None:
        """Count the step if it was skipped; call it after the last ``descend`` of a step.

        Args:
            batch: what the step was computed from.
            values: terms of the loss, for the message.

        Raises:
            ValueError: more steps were skipped than ``optimizer.skip_budget`` allows.
        """
        left_out = torch.stack(self._left_out).amax()
        self._left_out.clear()
        if self._statistics is not None:
            self._statistics.take_back(left_out)
        batch = self._batch or batch
        self._batch = self._statistics = None
        self._sound = []
        detached = {name: value.detach() for name, value in values.items()}
        folder = Path(self.trainer.default_root_dir)
        self._skipped.note(self.global_step - 1, left_out, batch, detached, folder)
        if self._skipped.count:
            self.log("train/skipped_steps", float(self._skipped.count), batch_size=len(batch))

    def log_terms(self, values: dict[str, Tensor], batch_size: int) -> None:
        """Log what a step computed, as the mean over all processes."""
        if self.trainer.world_size > 1:
            # One exchange for all values; Lightning's ``sync_dist`` needs one for each.
            means = self.trainer.strategy.reduce(torch.stack(list(values.values())), reduce_op="mean")
            values = dict(zip(values, means.unbind(), strict=True))
        self.log_dict(values, batch_size=batch_size)

    def on_train_epoch_end(self) -> None:
        """Evaluate pending steps before validation and checkpoints."""
        self._skipped.finish(Path(self.trainer.default_root_dir))

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
        """Self-reenactment on a white background, of the pairs that are finite."""
        self._score(_finite(batch), "val")

    def test_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        """The same scores on the test split."""
        self._score(_finite(batch), "test")

    def _score(self, batch: AvatarBatch, stage: str) -> None:
        rendered = self.reproduce(batch, 1.0)
        target = batch.target
        # The content beyond an image's border is unknown, so both show white there.
        known = 1 - target.region_mask(Region.OUTSIDE)
        wanted = torch.lerp(torch.ones_like(target.image), target.image, target.foreground_mask * known)
        predicted = torch.lerp(torch.ones_like(target.image), rendered.image.clamp(0, 1), known)
        metrics: dict[str, Metric] = {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips}
        for name, metric in metrics.items():
            metric.update(predicted, wanted)
            self.log(f"{stage}/{name}", metric, prog_bar=name != "ssim", batch_size=len(batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the architecture as plain data, so that the weights load without Lightning."""
        checkpoint[CONFIG_KEY] = dataclasses.asdict(self.avatar.config)
        checkpoint["image_size"] = self.image_size
        self._skipped.finish(Path(self.trainer.default_root_dir))
        checkpoint["skipped_steps"] = self._skipped.count
        if self._scalers:
            checkpoint["scalers"] = [scaler.state_dict() for scaler in self._scalers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the count and the loss scales of the run."""
        self._skipped.count = checkpoint.get("skipped_steps", 0)
        states = checkpoint.get("scalers", [])
        self._scalers = [torch.amp.GradScaler(self.device.type) for _ in states]
        for scaler, state in zip(self._scalers, states, strict=True):
            scaler.load_state_dict(state)


def _finite(batch: AvatarBatch) -> AvatarBatch:
    """The pairs that can be scored; warns about the other clips."""
    part = finite_part(batch)
    if part is not batch:
        rank_zero_warn(f"excluded from the scores because not finite: {describe(batch)}")
    return part


def _as_list(value: Any) -> list[Any]:
    """Lightning unwraps lists of one."""
    return value if isinstance(value, list) else [value]
