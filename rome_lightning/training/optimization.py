"""One optimizer's step: loss scaling, clipping, and the rule that bad gradients change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rome_lightning.training.config import OptimizerConfig

COSINE_FLOOR = 0.02
"""Share of the peak learning rate at which the cosine ends."""


def build_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Adam:
    """Fused Adam: the only implementation that can skip a step without synchronizing with the device."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.Adam(trained, config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, total_steps: float) -> LambdaLR:
    """Linear warm-up, then constant or a cosine over the planned steps.

    Args:
        optimizer: whose learning rate is scheduled.
        config: names the schedule.
        total_steps: planned steps, infinite if there is no plan.
    """

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.schedule == "constant" or not math.isfinite(total_steps):
            return warm
        progress = min(1.0, step / max(1, total_steps))
        return warm * (COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)


def finish_gradients(
    optimizer: torch.optim.Optimizer, clip_norm: float, scaler: torch.amp.GradScaler | None
) -> Tensor:
    """Unscale and clip the gradients of an optimizer, and make it skip a non-finite step.

    Nothing here waits for the device: the fused step reads the verdict there.

    Args:
        optimizer: after its backward pass, made by ``build_adam``.
        clip_norm: largest norm, 0 for no clipping.
        scaler: what the loss was scaled by; updated here.

    Returns:
        1 if the step is skipped, else 0; a scalar on the device.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    left_out = 1 - norm.isfinite().float()
    optimizer.found_inf = left_out  # type: ignore[attr-defined]
    if scaler is not None:
        scaler.update()
    return left_out
