"""Whether an operation runs in fused kernels or in the torch code that defines its meaning."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


@functools.cache
def _load() -> tuple[ModuleType | None, str]:
    """The kernels, or the reason why there are none."""
    try:
        return importlib.import_module("rome_lightning.renderer.kernels"), "ok"
    except ImportError as error:
        return None, f"{error}; install it with `pip install warp-lang`"


@torch.compiler.assume_constant_result
def warp_status() -> str:
    """Say "ok", or why the Warp kernels cannot be used."""
    return _load()[1]


def has_kernels(tensor: Tensor) -> bool:
    """Whether the kernels work on a tensor's dtype and device.

    Float64, which only gradient checks use, stays in torch.
    """
    return tensor.dtype != torch.float64 and tensor.device.type in ("cpu", "cuda") and warp_status() == "ok"


def warp_kernels() -> Any:
    """The module of kernels, compiled at their first use."""
    kernels, status = _load()
    if kernels is None:
        raise ImportError(f"the fused kernels of the renderer need Warp: {status}")
    return kernels
