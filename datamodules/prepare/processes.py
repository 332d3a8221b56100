"""Child processes that may crash or hang without taking the run with them.

Each worker is one process with one pipe, so its current task is what killed or stopped it. A pool of the
standard library does not say which task broke it and sometimes never returns.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Setup = Callable[[], Callable[[Any], Any]]
"""Called once in the child; returns the function that handles every task. Must be picklable."""

ATTEMPTS = 2
"""Number of processes that a task may kill before it is given up."""
_BYTES_PER_WORKER = 2 * 2**30
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class GivenUp:
    """Returned instead of a result: the task crashed or hung its process every time."""

    reason: str
    kind: str
    """``crash`` or ``timeout``."""


class _Worker(Generic[Task]):
    """A process and what it is doing."""

    def __init__(self, setup: Setup) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, setup), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.ready = False
        self.since = time.monotonic()

    def give(self, task: Task) -> None:
        self.task, self.since = task, time.monotonic()
        try:
            self.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            # It died after its last message; the next wait finds the closed pipe.
            return

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_tasks(
    tasks: Sequence[Task], setup: Setup, workers: int, limit_s: float
) -> Iterator[tuple[Task, Any]]:
    """Yield results as they arrive, each with its task; every task gives exactly one.

    Args:
        tasks: picklable; started in this order.
        setup: see ``Setup``.
        workers: processes.
        limit_s: seconds that a task may take before its process is killed.

    Yields:
        The task and what the function returned, or ``GivenUp`` after ``ATTEMPTS`` dead processes.

    Raises:
        Exception: whatever ``setup`` or the function raised, unchanged.
        RuntimeError: processes die before they get a task.
    """
    waiting: deque[Task] = deque(tasks)
    deaths: dict[int, int] = {}
    running: list[_Worker[Task]] = []
    failed_starts = 0
    try:
        while waiting or any(worker.task is not None for worker in running):
            while len(running) < min(workers, len(waiting) + sum(w.task is not None for w in running)):
                running.append(_Worker(setup))
            for worker in running:
                # Includes workers that were idle when a task returned from a dead process.
                if waiting and worker.ready and worker.task is None:
                    worker.give(waiting.popleft())
            for worker in _next_events(running, limit_s):
                kind, value = _message(worker, limit_s)
                if kind == "ready":
                    worker.ready, failed_starts = True, 0
                elif kind == "error":
                    raise value
                elif kind == "done":
                    task, worker.task = worker.task, None
                    assert task is not None
                    yield task, value
                else:
                    running.remove(worker)
                    worker.stop()
                    failed_starts += not worker.ready
                    if failed_starts >= ATTEMPTS:
                        raise RuntimeError(f"worker processes did not start: {value}")
                    if worker.task is not None:
                        yield from _again_or_give_up(worker.task, kind, value, deaths, waiting)
    finally:
        for worker in running:
            worker.stop()


def _again_or_give_up(
    task: Task, kind: str, reason: str, deaths: dict[int, int], waiting: deque[Task]
) -> Iterator[tuple[Task, GivenUp]]:
    deaths[id(task)] = deaths.get(id(task), 0) + 1
    if deaths[id(task)] >= ATTEMPTS:
        yield task, GivenUp(reason, kind)
    else:
        waiting.append(task)


def _next_events(running: Sequence[_Worker[Any]], limit_s: float) -> list[_Worker[Any]]:
    """Workers with a message, a closed pipe or a task that takes too long; waits for the first."""
    now = time.monotonic()
    ends = [worker.since + limit_s for worker in running if worker.task is not None]
    timeout = max(min(ends) - now, 0) if ends else None
    ready = connection.wait([worker.pipe for worker in running], timeout)
    late = time.monotonic() - limit_s
    return [w for w in running if w.pipe in ready or (w.task is not None and w.since <= late)]


def _message(worker: _Worker[Any], limit_s: float) -> tuple[str, Any]:
    """The worker's message, or how it ended."""
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return "crash", f"the process working on it ended {ATTEMPTS} times ({_how(worker.process.exitcode)})"
    return "timeout", f"it took more than {limit_s:g} s {ATTEMPTS} times (video_limit_s)"


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory" if -code == signal.SIGKILL else name
    return f"exit code {code}"


def _serve(pipe: connection.Connection, setup: Setup) -> None:
    """Body of a child process."""
    # Ctrl-C and scheduler warnings go to all processes; the parent handles them.
    for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    work, answer = _attempt(setup)
    pipe.send(answer if work is None else ("ready", None))
    while work is not None:
        try:
            task = pipe.recv()
        except EOFError:
            return
        _, answer = _attempt(work, task)
        pipe.send(answer)


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, tuple[str, Any]]:
    """The function's result, and the message with it or its error."""
    try:
        value = function(*arguments)
    except (OSError, ValueError, ImportError) as error:
        return None, ("error", error)
    except Exception as error:
        # Other errors need not survive a pipe.
        return None, ("error", RuntimeError(f"{type(error).__name__}: {error}"))
    return value, ("done", value)


def _die_with_parent() -> None:
    """A killed builder must not leave behind processes that keep writing."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def default_workers() -> int:
    """One per core that this process may use, fewer if its free memory is short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _available_bytes() // _BYTES_PER_WORKER))


def _available_bytes() -> int:
    """Memory available to programs, file cache included; all memory if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Limit the threads of the numeric libraries of this process and its children.

    OpenCV ignores the environment, so each child sets its own limit.
    """
    import cv2
    import torch

    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    threads = torch.get_num_threads()
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(-1)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
