"""A process that decodes batches into shared memory; started by ``datamodules.workers``.

Its arguments are three descriptors: of the connection to its parent, of the shared memory, and of the pickled
``PairSource`` that the parent wrote.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from datamodules.fetching import on_alive
from datamodules.pairs import BatchNote, PairSource, Place
from datamodules.sharing import open_shared

_PARENT_CHECK_S = 5.0
_ALIVE_S = 0.5


@dataclass(frozen=True)
class Task:
    """Decode the pairs at some positions into a slot of the shared memory."""

    ticket: int
    slot: int
    places: list[Place]


@dataclass(frozen=True)
class Failure:
    """An exception in a worker."""

    kind: str
    message: str
    trace: str


@dataclass(frozen=True)
class Alive:
    """Sign of life: the worker has started, is fetching a shard, or waits for another that is fetching it."""


@dataclass(frozen=True)
class Reply:
    """A task is done or has failed."""

    ticket: int
    note: BatchNote | Failure


def serve(connection: Connection, memory: mmap.mmap, source: PairSource) -> None:
    """Work until the connection ends, which happens however the parent ends."""
    parent = os.getppid()
    layout = source.layout
    told_s = 0.0
    room = select.poll()
    room.register(connection, select.POLLOUT)

    def alive() -> None:
        nonlocal told_s
        # A parent that trains or validates reads nothing; waiting for it would stall a download that others
        # need.
        if time.monotonic() - told_s >= _ALIVE_S and room.poll(0):
            told_s = time.monotonic()
            try:
                connection.send(Alive())
            except (BrokenPipeError, ConnectionResetError):
                # The parent is gone. An OSError would be mistaken for a network fault.
                sys.exit()

    on_alive(alive)
    alive()
    while True:
        while not connection.poll(_PARENT_CHECK_S):
            # A process forked from the parent may hold the other end open.
            if os.getppid() != parent:
                return
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        try:
            arrays = layout.arrays(memory, task.slot * layout.num_bytes)
            note: BatchNote | Failure = source.write(task.places, arrays)
        except Exception as error:
            note = Failure(type(error).__name__, str(error), traceback.format_exc())
        connection.send(Reply(task.ticket, note))


def main(arguments: list[str]) -> None:
    """Run a worker."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        # Ctrl-C and scheduler warnings go to all processes; the parent handles them.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    connection, memory, pickled = (int(argument) for argument in arguments)
    source: PairSource = open_shared(pickled)
    try:
        serve(Connection(connection), mmap.mmap(memory, 0), source)
    except (BrokenPipeError, ConnectionResetError):
        return
