"""A second Python process beside this one: it ends with this one, and its errors arrive here."""

from __future__ import annotations

import importlib
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

_PATIENCE_S = 2.0
"""For a process that is told to end, before it is killed."""
_KEPT = (FileNotFoundError, PermissionError, OSError, ValueError, ImportError)
"""Errors that keep their class on the way; others need not survive a pipe."""


@dataclass(frozen=True)
class Failure:
    """An error of the child, for ``Child.receive`` to raise."""

    error: Exception

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The error with its message, and the child's traceback as a note."""
        kind = next((kind for kind in _KEPT if isinstance(error, kind)), None)
        kept = RuntimeError(f"{type(error).__name__}: {error}") if kind is None else kind(str(error))
        kept.add_note("".join(traceback.format_exception(error)))
        return cls(kept)


class Child:
    """A process that runs one function, with a pipe to it; a context manager.

    At the end of the block the process is told to end, by closing the pipe, and killed if it does not, or if
    it was never sent anything.

    Args:
        function: ``module:name`` of what the process imports and calls with its end of the pipe. Nothing of
            it is imported here.
        name: of the process in messages.
    """

    def __init__(self, function: str, name: str) -> None:
        context = get_context("spawn")
        self.name = name
        self._has_work = False
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, function), name=name, daemon=True)
        with _interrupts_ignored():
            self._process.start()
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(_PATIENCE_S if self._has_work else 0.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message; whether the child still runs shows when it is to answer."""
        self._has_work = True
        try:
            self._pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> Any:
        """Wait for a message.

        Raises:
            Exception: that the child reports, with its message.
            RuntimeError: the child has ended, for instance because the system killed it.
        """
        try:
            message = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_PATIENCE_S)
            raise RuntimeError(f"{self.name} ended ({_how(self._process.exitcode)})") from None
        if isinstance(message, Failure):
            raise message.error
        return message


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {code}"


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Start processes that never see Ctrl-C, which goes to all of them: the parent handles it."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can set it; the child does it again itself.
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(pipe: Connection, function: str) -> None:
    """Body of the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(pipe)
    except Exception as error:
        tell(pipe, Failure.of(error))


def tell(pipe: Connection, message: Any) -> bool:
    """Send a message to the parent; False if it has left."""
    try:
        pipe.send(message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True
