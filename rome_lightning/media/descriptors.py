"""Open files: their limit per process, and a bounded set of them for random reads."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict

_ENOUGH = 65536
_MOST_OPEN = 256


def raise_file_limit() -> int:
    """Raise the soft limit of open files (``ulimit -n``) to the hard limit; return the new limit.

    Children inherit it. Only the soft limit is changed; raising the hard one needs root.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _ENOUGH if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        # macOS states a hard limit that it does not grant.
        return soft
    return wanted


class OpenFiles:
    """Descriptors of the most recently read files; the least recently used is closed to open another.

    Not for several threads at once. After a fork the child opens its own.

    Args:
        most: files open at a time; None takes a sixteenth of what the process may have, at most 256.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most if most is not None else max(min(raise_file_limit() // 16, _MOST_OPEN), 1)
        # By name: to compare and hash a ``Path`` takes longer than to read from the file.
        self._files: OrderedDict[str, int] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._files)

    def get(self, path: str) -> int | None:
        """The descriptor of a file, valid until the next call of ``open``; None if it is not open."""
        if self._process != os.getpid():
            # The parent's numbers would work, for positions are explicit, but are not ours to close.
            self._files, self._process = OrderedDict(), os.getpid()
        if path in self._files:
            self._files.move_to_end(path)
        return self._files.get(path)

    def open(self, path: str) -> int:
        """Open a file for reading, as ``get`` knows it from now on.

        Raises:
            OSError: it cannot be opened.
        """
        while len(self._files) >= self.most:
            os.close(self._files.popitem(last=False)[1])
        handle = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            # Otherwise the system also reads ahead around every frame.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        self._files[path] = handle
        return handle

    def __getstate__(self) -> dict[str, int]:
        return {"most": self.most}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["most"])  # type: ignore[misc]

    def __del__(self) -> None:
        if getattr(self, "_process", None) == os.getpid():
            for handle in self._files.values():
                os.close(handle)
