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


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor)


class _ConvOfPrepared(torch.autograd.Function):
    """``conv2d(prepare(*inputs), filters(weight))``, saving ``inputs`` and ``weight`` only; stride 1."""

    @staticmethod
    def forward(
        ctx: Any,
        prepare: Prepare,
        filters: Prepare,
        padding: tuple[int, int],
        weight: Tensor,
        bias: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.prepare, ctx.filters, ctx.padding = prepare, filters, padding
        ctx.bias_size = None if bias is None else [bias.shape[0]]
        ctx.save_for_backward(weight, *inputs)
        return F.conv2d(prepare(*inputs), filters(weight), bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, _, _, needs_weight, needs_bias, *needs_inputs = ctx.needs_input_grad
        needs = [needs_weight, *needs_inputs]
        leaves = [
            saved.detach().requires_grad_(needed)
            for saved, needed in zip(ctx.saved_tensors, needs, strict=True)
        ]
        with torch.enable_grad():
            used, prepared = ctx.filters(leaves[0]), ctx.prepare(*leaves[1:])
        for_prepared, for_used, for_bias = torch.ops.aten.convolution_backward(
            gradient, prepared.detach(), used.detach(), ctx.bias_size, [1, 1], ctx.padding, [1, 1], False,
            [0, 0], 1, [any(needs_inputs), needs_weight, needs_bias],
        )  # fmt: skip
        for_weight = torch.autograd.grad(used, leaves[0], for_used)[0] if needs_weight else None
        wanted = [leaf for leaf in leaves[1:] if leaf.requires_grad]
        found = iter(torch.autograd.grad(prepared, wanted, for_prepared) if wanted else ())
        for_inputs = [next(found) if needed else None for needed in needs_inputs]
        return None, None, None, for_weight, for_bias, *for_inputs


def conv_of_prepared(
    prepare: Prepare, inputs: tuple[Tensor, ...], conv: nn.Module
) -> Float[Tensor, "b o h w"]:
    """A convolution of ``prepare(*inputs)``, whose result is not kept for the backward pass.

    Values and gradients are those of the plain expression. What autograd would keep is the output of a
    normalization, an activation or a concatenation and the standardized filters, which are cheap to compute
    again: it is half of what training the released networks needs.

    Compiled graphs decide themselves what to keep, and autocast chooses a precision for each operation:
    both get the plain expression.

    Args:
        prepare: a function of the tensors alone, differentiable and without random numbers.
        inputs: all tensors that need a gradient, parameters included.
        conv: a convolution of stride 1 and one group, standardized or not.
    """
    plain = torch.compiler.is_compiling() or not torch.is_grad_enabled()
    if plain or torch.is_autocast_enabled(inputs[0].device.type):
        return conv(prepare(*inputs))
    assert isinstance(conv, nn.Conv2d)
    filters = standardize_weight if isinstance(conv, WeightStandardizedConv2d) else _unchanged
    output: Tensor = _ConvOfPrepared.apply(prepare, filters, conv.padding, conv.weight, conv.bias, *inputs)
    return output


def conv_of_activated(
    inputs: Float[Tensor, "b i h w"], norm: nn.Module, conv: nn.Module
) -> Float[Tensor, "b o h w"]:
    """Normalization, ReLU and convolution; only ``inputs`` are kept for the backward pass."""
    assert isinstance(norm, nn.GroupNorm)

    def activate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.group_norm(x, norm.num_groups, weight, bias, norm.eps), inplace=True)

    return conv_of_prepared(activate, (inputs, norm.weight, norm.bias), conv)


def conv_of_kept(inputs: Float[Tensor, "b i h w"], conv: nn.Module) -> Float[Tensor, "b o h w"]:
    """A convolution that keeps its input, but not its standardized filters."""
    return conv_of_prepared(_unchanged, (inputs,), conv)
