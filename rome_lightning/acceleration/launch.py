"""Start Warp, pass torch's memory to it, and launch kernels."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
import warp as wp
from torch import Tensor

from rome_lightning.acceleration.threads import num_threads, share

OPTIONS = {"enable_backward": False, "fuse_fp": False, "fast_math": False}
"""Of every module of kernels: without contraction a product and a sum round as in torch."""

_compiling = threading.Lock()
"""Held where a kernel may have to be compiled, which several threads would do at once."""


class Vectors(NamedTuple):
    """A tensor whose last dimension is to be passed as one vector, e.g. x, y, z."""

    tensor: Tensor


class Shared(NamedTuple):
    """A tensor, or its vectors, that all images of a batch share: see ``launch_images``."""

    item: Tensor | Vectors


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


def launch_images(kernel: wp.Kernel, size: Sequence[int], *arguments: object) -> None:
    """Launch for a batch of images, which torch's threads share among them on the CPU.

    Args:
        kernel: its first index is that of the image.
        size: images, then anything.
        arguments: tensors and vectors have an entry per image, unless they are ``Shared`` or empty. Where one
            has another number of entries the batch stays together, because the kernel may add to them.
    """
    batch = size[0]
    if 0 in size:
        return
    num_parts = min(num_threads(), batch)
    if num_parts < 2 or not _can_part(arguments, batch):
        launch(kernel, size, *(item.item if isinstance(item, Shared) else item for item in arguments))
        return

    def launch_part(part: int) -> None:
        images = slice(batch * part // num_parts, batch * (part + 1) // num_parts)
        of_images = [_entries(item, images) for item in arguments]
        launch(kernel, (images.stop - images.start, *size[1:]), *of_images)

    share(launch_part, range(num_parts))


def _can_part(arguments: Sequence[object], batch: int) -> bool:
    """Whether each image has entries of its own, on the CPU."""
    tensors = [_tensor(item) for item in arguments if not isinstance(item, Shared)]
    own = [tensor for tensor in tensors if tensor is not None and tensor.numel()]
    return not own[0].is_cuda and all(len(tensor) == batch for tensor in own)


def _tensor(item: object) -> Tensor | None:
    item = item.tensor if isinstance(item, Vectors) else item
    return item if isinstance(item, Tensor) else None


def _entries(item: object, images: slice) -> object:
    """What an argument holds for some images."""
    if isinstance(item, Shared):
        return item.item
    if isinstance(item, Vectors):
        return Vectors(item.tensor[images])
    return item[images] if isinstance(item, Tensor) else item


def launch(kernel: wp.Kernel, size: Sequence[int], *arguments: object) -> None:
    """Launch on the device of the tensors, on torch's current stream there.

    ``arguments`` keeps temporary tensors alive until the launch, because Warp sees their addresses only.
    """
    if 0 in size:
        return
    device = next(tensor.device for tensor in map(_tensor, arguments) if tensor is not None)
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    inputs = [_shared(item) for item in arguments]
    if device.type == "cpu":
        with _compiling:
            wp.load_module(kernel.module, device="cpu")
    wp.launch(kernel, dim=tuple(size), inputs=inputs, device=wp.device_from_torch(device), stream=stream)


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
