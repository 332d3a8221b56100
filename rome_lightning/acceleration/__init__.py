"""Fused kernels in Warp: whether they can be used, and how they are started and launched.

The kernels themselves stand beside the torch code that defines what they mean: ``geometry.kernels``,
``networks.fast.kernels`` and ``renderer.kernels``. One source serves CPU and CUDA; Warp compiles it at first
use and caches the result.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

LANES = 16
"""Channels that kernels of networks carry as one vector, by which numbers of channels have to divide: a cache
line of float32, and as wide as registers get."""


@functools.cache
def _load() -> str:
    """Start Warp, or say why it cannot be used."""
    try:
        importlib.import_module("rome_lightning.acceleration.launch")
    except ImportError as error:
        return f"{error}; install it with `pip install warp-lang`"
    return "ok"


def warp_status() -> str:
    """Say "ok", or why the Warp kernels cannot be used."""
    return _load()


# What torch.compiler.assume_constant_result does, which would import the compiler: two to three seconds.
warp_status._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_kernels(tensor: Tensor) -> bool:
    """Whether the kernels work on a tensor's dtype and device.

    Float64, which only gradient checks use, stays in torch.
    """
    return tensor.dtype != torch.float64 and tensor.device.type in ("cpu", "cuda") and warp_status() == "ok"


@functools.cache
def kernels(module: str) -> Any:
    """A module of kernels; those are compiled at their first use.

    Args:
        module: ``geometry``, ``networks.fast`` or ``renderer``.

    Raises:
        ImportError: Warp is missing.
    """
    if warp_status() != "ok":
        raise ImportError(f"the fused kernels need Warp: {warp_status()}")
    return importlib.import_module(f"rome_lightning.{module}.kernels")
