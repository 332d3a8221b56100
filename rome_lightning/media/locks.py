"""One writing process per folder; others are told which process owns it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK = ".rome.lock"
"""Name of the lock file in a folder while a process owns it."""


@contextmanager
def owned(folder: Path, task: str, name: str = LOCK) -> Iterator[None]:
    """Keep other processes out of a folder.

    The operating system releases the lock however a process ends; a file left by a killed process locks
    nobody out.

    Args:
        folder: made if needed.
        task: what this process does there, for the message that others get.
        name: of the lock file, for tasks that may share a folder.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: another process owns it; the message says which, and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    descriptor = _take(path)
    try:
        owner = {
            "task": task,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int:
    """Descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            # Of the process, not of the open file: children that outlive it do not inherit the lock.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            text = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            raise ValueError(_message(path.parent, text)) from error
        # The owner before may have removed the file between the two calls.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _message(folder: Path, text: bytes) -> str:
    """A description of the owner, whose note may be incomplete."""
    try:
        owner: Any = json.loads(text)
        who = f"{owner['task']} (process {owner['process']} on {owner['host']}, since {owner['since']})"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"{folder} is being written by {who}; wait for it, stop it, or choose another folder"
