"""Starting Warp, handing torch's memory to it, and launching kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
import warp as wp
from torch import Tensor

OPTIONS = {"enable_backward": False, "fuse_fp": False, "fast_math": False}
"""Of every module of kernels: without contraction a product and a sum round as in torch."""


class Vectors(NamedTuple):
    """A tensor whose last dimension is to be passed as one vector, e.g. x, y, z."""

    tensor: Tensor


def _start() -> None:
    """Initialise Warp without its banner and its lines per kernel module, from every process.

    Its native code also warns about a missing GPU driver, straight to file descriptor 2; on a machine
    without CUDA that is no news.
    """
    wp.config.log_level = wp.LOG_WARNING
    if torch.cuda.is_available():
        wp.init()
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


_start()


def runs(length: int, device: torch.device) -> tuple[int, int]:
    """Into how many runs of neighbours a row of pixels is cut, and their length.

    On the CPU one run is the whole row: threads come one after another there, and what neighbours share is
    loaded once. On CUDA every pixel has a thread of its own.
    """
    return (length, 1) if device.type == "cuda" else (1, length)


def launch(kernel: wp.Kernel, size: Sequence[int], *arguments: object) -> None:
    """Launch on the device of the tensors, on torch's current stream there.

    ``arguments`` keeps temporary tensors alive until the launch, because Warp sees their addresses only.
    """
    device = next(tensor.device for tensor in map(_tensor, arguments) if tensor is not None)
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    inputs = [_shared(item) for item in arguments]
    wp.launch(kernel, dim=tuple(size), inputs=inputs, device=wp.device_from_torch(device), stream=stream)


def _tensor(item: object) -> Tensor | None:
    item = item.tensor if isinstance(item, Vectors) else item
    return item if isinstance(item, Tensor) else None


def _shared(item: object) -> object:
    """Give Warp the memory of tensors; other arguments pass."""
    if isinstance(item, Vectors):
        tensor, length = item.tensor, item.tensor.shape[-1]
        if length == 1:
            # torch calls it contiguous whatever its last stride, Warp looks.
            tensor = tensor.squeeze(-1).unsqueeze(-1)
        dtype = wp.types.vector(length=length, dtype=wp.float32)
        return wp.from_torch(tensor, dtype=dtype, requires_grad=False, return_ctype=True)
    if isinstance(item, Tensor):
        return wp.from_torch(item, requires_grad=False, return_ctype=True)
    return item
