"""Fused kernels in Warp: whether they can be used, and how they are started and launched.

The kernels themselves are beside the torch code that defines their meaning: ``geometry.kernels``,
``metrics.kernels``, ``networks.fast.kernels`` and ``renderer.kernels``. One source serves CPU and CUDA; Warp
compiles it at first use and caches the result.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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


_PLAIN = ContextVar("plain", default=False)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within it nothing is fused: what is traced there consists of torch's own operators."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain() -> bool:
    """Whether this is within ``plain_torch``."""
    return _PLAIN.get()


def has_kernels(tensor: Tensor) -> bool:
    """Whether the kernels work on a tensor's dtype and device.

    Float64, which only gradient checks use, stays in torch.
    """
    if tensor.dtype == torch.float64 or tensor.device.type not in ("cpu", "cuda"):
        return False
    # Asked last: the compiler of torch cannot follow it, and never needs to.
    return warp_status() == "ok" and (torch.compiler.is_compiling() or not _PLAIN.get())


@functools.cache
def kernels(module: str) -> Any:
    """A module of kernels; those are compiled at their first use.

    Args:
        module: ``geometry``, ``metrics``, ``networks.fast`` or ``renderer``.

    Raises:
        ImportError: Warp is missing.
    """
    if warp_status() != "ok":
        raise ImportError(f"the fused kernels need Warp: {warp_status()}")
    return importlib.import_module(f"rome_lightning.{module}.kernels")
