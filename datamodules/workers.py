"""Worker processes that decode batches into a ring of slots in shared memory.

Only slot numbers cross between the processes. A batch in the trainer is a view of its slot, which is reused
when the last tensor on it is gone. The memory has no name in ``/dev/shm``: it vanishes with the last process
that uses it, however that ends.

A worker that dies or hangs is replaced, and its unfinished batches are decoded again: the content of a batch
depends only on the requested positions.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from multiprocessing import connection as connections
from multiprocessing.connection import Connection

from datamodules.codec import CorruptDataError
from datamodules.pairs import BatchArrays, BatchNote, PairSource, Place
from datamodules.sharing import anonymous_file, share
from datamodules.worker import Alive, Failure, Reply, Task

MAX_RESTARTS = 3
"""Workers replaced per epoch before training stops."""
_TASKS_PER_WORKER = 2
"""The task being decoded and the next one, so that a worker never waits for its parent."""
_START_S = 120.0
"""Time for a worker to start, if ``timeout_s`` is not longer."""
_LENT_SLOTS = 3
"""Number of batches that the trainer may hold before it gets copies."""
_COMMAND = "import sys; from datamodules.worker import main; main(sys.argv[1:])"


class WorkerError(RuntimeError):
    """Workers cannot continue."""


class _Worker:
    """A process and the tasks that it has not answered."""

    def __init__(self, memory: int, pickled: int) -> None:
        ours, theirs = connections.Pipe()
        # Not a fork, which would copy the trainer's threads and CUDA context.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OPENBLAS_NUM_THREADS": "1",
        }
        handles = (theirs.fileno(), memory, pickled)
        # Not with -m: classes of a module that runs as __main__ cannot be unpickled here.
        command = [sys.executable, "-c", _COMMAND, *map(str, handles)]
        self.process = subprocess.Popen(command, pass_fds=handles, env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        self.connection: Connection = ours
        self.tasks: OrderedDict[int, Task] = OrderedDict()
        self.heard_s = time.monotonic()
        self.started = False

    def send(self, task: Task) -> None:
        """Send a task; reading the reply will show whether the worker is alive."""
        if not self.tasks:
            self.heard_s = time.monotonic()
        self.tasks[task.ticket] = task
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            return

    def stop(self, wait_s: float = 0.0) -> None:
        """End the process: it leaves when the connection closes, else it is killed."""
        self.connection.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WorkerPool:
    """Decodes batches in several processes.

    Args:
        source: reads the pairs; pickled once.
        num_workers: processes.
        timeout_s: a worker that has not answered for this long is replaced.
    """

    def __init__(self, source: PairSource, num_workers: int, timeout_s: float) -> None:
        self.layout = source.layout
        self.timeout_s = timeout_s
        self.restarts = 0
        """Workers replaced since ``begin``."""
        num_slots = num_workers * _TASKS_PER_WORKER + _LENT_SLOTS
        self._memory_file = anonymous_file([], num_slots * self.layout.num_bytes)
        self._memory = mmap.mmap(self._memory_file, 0)
        self._source_file = share(source)
        self._free = list(range(num_slots))
        self._lent: set[int] = set()
        self._done: dict[int, tuple[int, BatchNote | Failure, list[Place]]] = {}
        self._next_ticket = 0
        self._workers = [_Worker(self._memory_file, self._source_file) for _ in range(num_workers)]
        self._finalizer = weakref.finalize(
            self, _close, os.getpid(), self._workers, (self._memory_file, self._source_file)
        )

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End all workers; batches that are still held stay valid."""
        self._finalizer()

    def begin(self) -> None:
        """Start an epoch: drop earlier requests, and count restarts from 0."""
        begun_s = time.monotonic()
        while busy := [worker for worker in self._workers if worker.tasks]:
            if not self._listen(busy):
                self._replace_hung(begun_s)
        for slot, _, _ in self._done.values():
            self._free.append(slot)
        self._done.clear()
        self.restarts = 0

    @property
    def has_room(self) -> bool:
        """Whether another batch may be requested."""
        return any(len(worker.tasks) < _TASKS_PER_WORKER for worker in self._workers) and bool(self._free)

    def submit(self, places: Sequence[Place]) -> int:
        """Request a batch; returns its ticket. Requires ``has_room``."""
        worker = min(self._workers, key=lambda worker: len(worker.tasks))
        ticket = self._next_ticket
        self._next_ticket += 1
        worker.send(Task(ticket, self._free.pop(), list(places)))
        return ticket

    def collect(self, ticket: int) -> tuple[BatchArrays, BatchNote]:
        """Wait for a batch.

        Raises:
            WorkerError: workers died or hung too often, or one met an error.
            CorruptDataError: data cannot be read.
        """
        begun_s = time.monotonic()
        while ticket not in self._done:
            if not self._listen([worker for worker in self._workers if worker.tasks]):
                self._replace_hung(begun_s)
        slot, note, places = self._done.pop(ticket)
        if isinstance(note, Failure):
            self._free.append(slot)
            raise _error(note, places)
        return self._lend(slot), note

    def _listen(self, workers: list[_Worker]) -> bool:
        """Receive pending replies, or wait for one; False on timeout."""
        by_connection = {worker.connection: worker for worker in workers}
        ready = connections.wait(list(by_connection), min(self.timeout_s, 5.0))
        for connection in ready:
            worker = by_connection[connection]  # type: ignore[index]
            try:
                reply: Reply | Alive = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                worker.stop(1.0)
                code = worker.process.returncode
                self._replace(worker, f"was killed by signal {-code}" if code < 0 else f"ended with {code}")
                continue
            worker.heard_s, worker.started = time.monotonic(), True
            if isinstance(reply, Alive):
                continue
            task = worker.tasks.pop(reply.ticket)
            self._done[reply.ticket] = (task.slot, reply.note, task.places)
        return bool(ready)

    def _replace_hung(self, begun_s: float) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            # Time in which the trainer did not read replies does not count.
            silent_s = now - max(worker.heard_s, begun_s)
            # Imports from a shared disk take longer than a batch.
            limit_s = self.timeout_s if worker.started else max(self.timeout_s, _START_S)
            if worker.tasks and silent_s >= limit_s:
                worker.stop()
                self._replace(worker, f"gave no answer for {silent_s:.0f} s")

    def _replace(self, worker: _Worker, what: str) -> None:
        place = self._workers.index(worker)
        at = next(iter(worker.tasks.values())).places[0] if worker.tasks else (0, 0)
        where = f"worker {place} {what} (at pair {at[1]} of epoch {at[0]})"
        if self.restarts == MAX_RESTARTS:
            raise WorkerError(
                f"{where}, after {MAX_RESTARTS} restarts in this epoch; check memory and storage; "
                "data.init_args.num_workers: 0 reads in this process and shows the full error; "
                "data.init_args.worker_timeout_s is the time limit of a batch"
            )
        self.restarts += 1
        warnings.warn(f"{where}; restarted ({self.restarts} of {MAX_RESTARTS})", stacklevel=2)
        successor = _Worker(self._memory_file, self._source_file)
        self._workers[place] = successor
        for task in worker.tasks.values():
            successor.send(task)

    def _lend(self, slot: int) -> BatchArrays:
        size = self.layout.num_bytes
        if len(self._lent) == _LENT_SLOTS:
            # The caller keeps batches, so they are copied and workers never run out of slots.
            start = slot * size
            copy = bytearray(memoryview(self._memory)[start : start + size])
            self._free.append(slot)
            return self.layout.arrays(copy)
        block = (ctypes.c_ubyte * size).from_buffer(self._memory, slot * size)
        self._lent.add(slot)
        weakref.finalize(block, _take_back, slot, self._lent, self._free).atexit = False
        return self.layout.arrays(block)


def _take_back(slot: int, lent: set[int], free: list[int]) -> None:
    lent.discard(slot)
    free.append(slot)


def _close(owner: int, workers: list[_Worker], files: Sequence[int]) -> None:
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.stop(2.0)
    for file in files:
        os.close(file)


def _error(failure: Failure, places: Sequence[Place]) -> Exception:
    (epoch, first), (_, last) = places[0], places[-1]
    if failure.kind == CorruptDataError.__name__:
        return CorruptDataError(failure.message)
    return WorkerError(
        f"a worker failed at pairs {first} to {last} of epoch {epoch}: {failure.kind}: {failure.message}\n"
        f"{failure.trace}"
    )
