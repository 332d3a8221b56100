"""Argument checks for kernels, which check nothing themselves."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def check_indices(name: str, index: Tensor, count: int, lowest: int = 0) -> None:
    """Raise an error for indices that are out of range.

    On CUDA, reading a tensor makes the host wait, so only constant lists are checked there, see
    ``check_faces``.

    Args:
        name: of the argument, for the message.
        index: integers.
        count: number of entries.
        lowest: smallest valid index; -1 if that stands for none.

    Raises:
        ValueError: an index is out of range.
    """
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{name} must contain integers, got {index.dtype}")
    if index.numel() == 0 or index.is_cuda:
        return
    low, high = index.aminmax()
    _refuse_outside(name, int(low), int(high), count, lowest)


def check_faces(name: str, faces: Tensor, count: int) -> None:
    """Raise an error for corner indices whose shape is not (faces, 3) or that are out of range.

    On CUDA the host waits only for the first check of a list.

    Raises:
        ValueError: names the argument.
    """
    if faces.ndim != 2 or faces.shape[-1] != 3:
        raise ValueError(f"{name} must have shape (faces, 3), got {tuple(faces.shape)}")
    check_indices(name, faces, count)
    if faces.is_cuda and faces.numel() and not torch.cuda.is_current_stream_capturing():
        place = (faces.data_ptr(), faces._version, tuple(faces.shape), faces.device.index)
        _refuse_outside(name, *_bounds(_Held(faces, place)), count, 0)


def check_batches(**tensors: tuple[Tensor, bool]) -> None:
    """Raise an error for batches that are empty or differ in size.

    Args:
        tensors: by argument name, each with whether a batch of 1 may be shared by all images.

    Raises:
        ValueError: names the arguments.
    """
    sizes = {name: (tensor.shape[0], shared) for name, (tensor, shared) in tensors.items()}
    batch = max(size for size, _ in sizes.values())
    if batch == 0 or any(size != batch and not (shared and size == 1) for size, shared in sizes.values()):
        listed = ", ".join(f"{size} of {name}" for name, (size, _) in sizes.items())
        raise ValueError(f"all tensors must have the same batch size of at least 1, got {listed}")


class _Held:
    """A tensor identified by its memory, not by its content."""

    def __init__(self, tensor: Tensor, place: tuple[object, ...]) -> None:
        self.tensor, self.place = tensor, place

    def __hash__(self) -> int:
        return hash(self.place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.place == other.place


@lru_cache(maxsize=8)
def _bounds(held: _Held) -> tuple[int, int]:
    """Smallest and largest value; the cache keeps the tensor alive, so that its memory is not reused."""
    low, high = held.tensor.aminmax()
    return int(low), int(high)


def _refuse_outside(name: str, low: int, high: int, count: int, lowest: int) -> None:
    if low < lowest or high >= count:
        raise ValueError(f"{name} must be from {lowest} to {count - 1}, got {low} to {high}")
