"""Convolutions whose weights are standardized at every use."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

WEIGHT_STD_EPS = 1e-5
"""Added to the standard deviation of a filter; released weights depend on it."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def standardize_weight(weight: Float[Tensor, "o i kh kw"]) -> Float[Tensor, "o i kh kw"]:
    """Give every output filter mean 0 and standard deviation 1.

    The mean is taken one axis after the other, as the release does: float32 round-off of the filters
    grows a thousandfold through E_tex, so another order of summation moves its output by 1e-3.

    Source: Qiao et al., Micro-batch training with batch-channel normalization and weight
    standardization, 2019, eq. 7, in the form of ROME's release: the unbiased deviation plus
    ``WEIGHT_STD_EPS``.
    """
    mean = weight
    for axis in (1, 2, 3):
        mean = mean.mean(axis, keepdim=True)
    centred = weight - mean
    std = centred.flatten(1).std(1).view(-1, 1, 1, 1)
    return centred / (std + WEIGHT_STD_EPS)


class WeightStandardizedConv2d(nn.Conv2d):
    """``Conv2d`` whose filters pass ``standardize_weight`` at every forward."""

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Convolve with the standardized filters."""
        return self._conv_forward(inputs, standardize_weight(self.weight), self.bias)


def fold_weight_standardization(module: ModuleT) -> ModuleT:
    """A copy of a module in which standardized convolutions are plain ones with equal outputs.

    For inference: it saves the standardization at every frame. The copy has the same state dict keys
    but other values, so it must not be trained on or loaded into the original.
    """
    folded = copy.deepcopy(module)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, WeightStandardizedConv2d):
                setattr(parent, name, _plain(child))
    if isinstance(folded, WeightStandardizedConv2d):
        folded = _plain(folded)  # type: ignore[assignment]
    return folded


def _plain(conv: WeightStandardizedConv2d) -> nn.Conv2d:
    """An ordinary convolution with the filters that ``conv`` uses."""
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        plain.weight.copy_(standardize_weight(conv.weight))
        if conv.bias is not None and plain.bias is not None:
            plain.bias.copy_(conv.bias)
    return plain.train(conv.training)


def group_norm(channels: int) -> nn.GroupNorm:
    """The normalization of the released networks: at most 32 groups, eps 1e-5."""
    groups = min(32, channels)
    if channels % groups:
        raise ValueError(
            f"widths above 32 must be multiples of 32 (groups of the normalization), got {channels}"
        )
    return nn.GroupNorm(groups, channels, eps=1e-5)
