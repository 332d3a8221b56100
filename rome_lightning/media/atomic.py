"""Files that appear under their name only when they are complete.

One guarantee for all of them: a reader, even during the write or after a crash or power cut, finds either the
old content or all of the new. When a call returns, content and name are on disk. Several processes may
write one name; the last one to finish wins. A write that fails leaves the old file and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeGuard

STALE_SECONDS = 3600.0
"""A temporary file unmodified for this long belongs to a killed process."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
"""The disk or a quota is full, a limit of file sizes is reached, the disk is broken."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file; its folder is created if needed.

    Args:
        path: of the file.
        data: text is written as UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Write several files, none of which appears before all of them are on disk.

    Args:
        files: content by path, the one that names the others last; text is written as UTF-8.

    Raises:
        OSError: one cannot be written; all old files are then unchanged.
    """
    with contextlib.ExitStack() as written:
        for path, data in reversed(list(files.items())):
            file = written.enter_context(atomic_file(path))
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def atomic_paths(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Empty files, of which none takes its name before all of them are on disk.

    Args:
        paths: of files that belong together, the one that names the others last.

    Yields:
        Their temporary files, for libraries that want names.
    """
    with contextlib.ExitStack() as written:
        temporaries = [written.enter_context(atomic_path(path)) for path in reversed(paths)]
        yield temporaries[::-1]
        for temporary in temporaries:
            _sync(temporary)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """An open file, for reading and writing, that becomes ``path`` at the end of the block."""
    with atomic_path(path) as temporary, temporary.open("r+b") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """An empty file that becomes ``path`` at the end of the block, for libraries that need a name."""
    temporary = temporary_for(path)
    try:
        yield temporary
        commit(temporary, path)
    except BaseException as error:
        # The caller must see the reason for the failure.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if _is_of(error, temporary):
            # They carry no name, or one that nobody has chosen.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _is_of(error: BaseException, temporary: Path) -> TypeGuard[OSError]:
    """Whether the disk refused to take the file."""
    return (
        isinstance(error, OSError)
        and error.errno in _DISK_ERRORS
        and (error.filename is None or temporary.name in str(error.filename))
    )


def temporary_for(path: Path) -> Path:
    """Make an empty file beside ``path`` under a name of its own, ``.NAME.RANDOM.tmp``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _collect_stale(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    temporary.touch(exist_ok=False)
    return temporary


def commit(temporary: Path, path: Path) -> None:
    """Give a closed or flushed file its final name, once its content is on disk."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def alias(source: Path, target: Path) -> None:
    """Give a file a second name, replacing what was there; a copy where the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.link(source, temporary)
    except OSError:
        write_atomic(target, source.read_bytes())
        return
    try:
        os.replace(temporary, target)
    finally:
        # Renaming one name of a file to another name of the same file does nothing.
        temporary.unlink(missing_ok=True)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _collect_stale(folder: Path) -> None:
    """Remove leftovers of killed processes in a folder, once per process."""
    for path in folder.glob(".*.tmp"):
        # Another process may have been faster.
        with contextlib.suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
