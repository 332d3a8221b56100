"""Objects for child processes with arrays in shared memory."""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import tempfile
from collections.abc import Iterable
from typing import Any

_ALIGNMENT = 64


def share(value: object) -> int:
    """Pickle an object into an unnamed file, with its arrays beside the pickle; return the descriptor.

    Children map the file, so an array takes memory once, no matter how many read it.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views: list[memoryview] = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    head = struct.pack(f"<{len(views) + 1}q", len(views), *(len(view) for view in views))
    parts: list[bytes | memoryview] = []
    for part in (memoryview(head), *views):
        parts += [part, bytes(-len(part) % _ALIGNMENT)]
    return anonymous_file(parts)


def open_shared(handle: int) -> Any:
    """The object that the parent process shared; its arrays are read-only."""
    memory = memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
    (count,) = struct.unpack_from("<q", memory)
    lengths = struct.unpack_from(f"<{count}q", memory, 8)
    place, views = _padded(8 + 8 * count), []
    for length in lengths:
        views.append(memory[place : place + length])
        place += _padded(length)
    # Written by our parent into memory that only we share: the only kind of pickle to trust.
    return pickle.loads(views[0], buffers=views[1:])


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def anonymous_file(parts: Iterable[bytes | memoryview], size: int | None = None) -> int:
    """Descriptor of a file without a name: gone with the last process that has it open."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("rome-batches")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(handle, view) :]
    if size is not None:
        os.ftruncate(handle, size)
    return handle
