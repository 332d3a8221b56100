"""Convolutions that compute their input again in the backward pass instead of keeping it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rome_lightning.networks.weight_standardization import WeightStandardizedConv2d, standardize_weight

Prepare = Callable[..., Tensor]


class _ConvOfPrepared(torch.autograd.Function):
    """``conv2d(prepare(*inputs), weight)``, saving ``inputs`` only; stride 1."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        prepare: Prepare,
        padding: tuple[int, int],
        weight: Tensor,
        bias: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.prepare, ctx.padding = prepare, padding
        ctx.bias_size = None if bias is None else [bias.shape[0]]
        ctx.save_for_backward(weight, *inputs)
        return F.conv2d(prepare(*inputs), weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, *saved = ctx.saved_tensors
        _, _, needs_weight, needs_bias, *needs_inputs = ctx.needs_input_grad
        inputs = [x.detach().requires_grad_(needed) for x, needed in zip(saved, needs_inputs, strict=True)]
        with torch.enable_grad():
            prepared = ctx.prepare(*inputs)
        for_prepared, for_weight, for_bias = torch.ops.aten.convolution_backward(
            gradient, prepared.detach(), weight, ctx.bias_size, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1,
            [any(needs_inputs), needs_weight, needs_bias],
        )  # fmt: skip
        wanted = [x for x in inputs if x.requires_grad]
        found = iter(torch.autograd.grad(prepared, wanted, for_prepared) if wanted else ())
        for_inputs = [next(found) if x.requires_grad else None for x in inputs]
        return None, None, for_weight, for_bias, *for_inputs


def conv_of_prepared(
    prepare: Prepare, inputs: tuple[Tensor, ...], conv: nn.Conv2d
) -> Float[Tensor, "b o h w"]:
    """A convolution of ``prepare(*inputs)``, whose result is not kept for the backward pass.

    Values and gradients are those of the plain expression. What autograd would keep is the output of a
    normalization, an activation or a concatenation, which is cheap to compute again: it is half of
    what training the released networks needs.

    Compiled graphs decide themselves what to keep, and autocast chooses a precision for each operation:
    both get the plain expression.

    Args:
        prepare: a function of the tensors alone, differentiable and without random numbers.
        inputs: all tensors that need a gradient, parameters included.
        conv: stride 1, one group.
    """
    plain = torch.compiler.is_compiling() or not torch.is_grad_enabled()
    if plain or torch.is_autocast_enabled(inputs[0].device.type):
        return conv(prepare(*inputs))
    is_standardized = isinstance(conv, WeightStandardizedConv2d)
    weight = standardize_weight(conv.weight) if is_standardized else conv.weight
    output: Tensor = _ConvOfPrepared.apply(prepare, conv.padding, weight, conv.bias, *inputs)  # type: ignore[no-untyped-call]
    return output


def conv_of_activated(
    inputs: Float[Tensor, "b i h w"], norm: nn.GroupNorm, conv: nn.Conv2d
) -> Float[Tensor, "b o h w"]:
    """Normalization, ReLU and convolution; only ``inputs`` are kept for the backward pass."""

    def activate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.group_norm(x, norm.num_groups, weight, bias, norm.eps), inplace=True)

    return conv_of_prepared(activate, (inputs, norm.weight, norm.bias), conv)
