"""Work shared among torch's threads on the CPU, where Warp kernels are single-threaded.

A thread pool of our own would not help: torch's OpenMP threads spin on the cores for milliseconds after
each of its operations. So they get the work themselves, through the function that compilers call for a
parallel region.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

PartT = TypeVar("PartT")

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _parallel_region() -> Any:
    """OpenMP's ``GOMP_parallel`` as torch loaded it, or None where there is none, as on Windows.

    GNU's and LLVM's libraries have it.
    """
    try:
        region = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    region.argtypes = [_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    region.restype = None
    return region


def num_threads() -> int:
    """Number of threads that ``share`` uses."""
    return torch.get_num_threads() if _parallel_region() else 1


def share(work: Callable[[PartT], object], parts: Sequence[PartT]) -> None:
    """Call ``work`` for every part, on as many of torch's threads as there are parts for.

    A free thread takes the next part. Torch operations within ``work`` are single-threaded and run in the
    caller's inference mode; Python code holds the interpreter lock as always.

    Raises:
        BaseException: what ``work`` raised first; the thread in which it did takes no more parts.
    """
    threads = min(num_threads(), len(parts))
    if threads < 2:
        for part in parts:
            work(part)
        return
    waiting = iter(parts)
    failures: list[BaseException] = []
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def take(_: object) -> None:
        # Modes belong to a thread. An exception cannot leave a callback.
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                for part in waiting:
                    work(part)
        except BaseException as error:
            failures.append(error)

    _parallel_region()(_Body(take), None, threads, 0)
    if failures:
        raise failures[0]
