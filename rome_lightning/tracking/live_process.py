"""Tracking in a process of its own, so that it shares no interpreter with the drawing.

The drawing process asks for each frame when it is free, and says how long it expects to be busy with it. So
the next one can be tracked just in time: sooner, it would be old when it is drawn.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from rome_lightning.media.child import Child, Failure, tell
from rome_lightning.tracking.live_frames import (
    REMEMBERED,
    TrackedFrame,
    TrackingJob,
    quartile,
    tracked_frames,
)
from rome_lightning.types import HeadParams

_CHECK_S = 0.5
"""How often a process that waits looks whether its parent is still there."""
_GRACE_S = 5.0
"""For the loop to end once the parent has left, before the process is ended."""
_SWITCH_S = 0.0005
"""Longest time for which one of the child's threads keeps the interpreter while another wants it."""


def start_tracking(child: Child, job: TrackingJob) -> None:
    """Let a child open the driver and calibrate; ``frames_of`` waits for it.

    Args:
        child: with ``serve`` as its function.
        job: what to track.
    """
    # Tensors cross as bytes: torch's own way through shared memory needs more of it than containers have.
    child.send(pickle.dumps(job))
    child.send(0.0)


def frames_of(child: Child) -> tuple[float, Generator[TrackedFrame, None, None]]:
    """What a child tracks after ``start_tracking``.

    Returns:
        The driver's frames per second, and its frames as ``tracked_frames`` gives them. With ``newest_only``
        numbers may be left out.

    Raises:
        Exception: of the driver or the tracker, here or while the frames come.
        RuntimeError: the process was killed.
    """
    fps: float = child.receive()
    return fps, _received(child)


def _received(child: Child) -> Generator[TrackedFrame, None, None]:
    busy: deque[float] = deque(maxlen=REMEMBERED)
    while True:
        # Sooner rather than later: a frame that waits costs less than one that is waited for.
        child.send(quartile(busy, 1))
        packed = child.receive()
        if packed is None:
            return
        taken = time.perf_counter()
        yield _unpacked(packed)
        busy.append(time.perf_counter() - taken)


def _packed(frame: TrackedFrame) -> dict[str, Any]:
    """A frame as plain values and arrays."""
    content = {field.name: getattr(frame, field.name) for field in dataclasses.fields(frame)}
    if frame.params is not None:
        names = [field.name for field in dataclasses.fields(frame.params)]
        content["params"] = {name: getattr(frame.params, name).numpy() for name in names}
    return content


def _unpacked(content: dict[str, Any]) -> TrackedFrame:
    params = content["params"]
    if params is not None:
        params = HeadParams(**{name: torch.from_numpy(values) for name, values in params.items()})
    return TrackedFrame(**{**content, "params": params})


def serve(pipe: Connection) -> None:
    """Body of the child."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.setswitchinterval(_SWITCH_S)
    try:
        # From the process that started this one, never from a file.
        job: TrackingJob = pickle.loads(pipe.recv())
    except (EOFError, ConnectionResetError):
        # The command ended before it came to this.
        return
    with suppress(_ParentLeftError):
        _fill(_Desk(pipe), job)


def _fill(desk: _Desk, job: TrackingJob) -> None:
    """Lay down the frames per second, all frames, and ``None`` or an error."""
    give = desk.offer if job.newest_only else desk.deliver
    try:
        with closing(tracked_frames(job, desk.deliver, desk.rest)) as frames:
            for frame in frames:
                give(_packed(frame))
    except _ParentLeftError:
        raise
    except Exception as error:
        desk.deliver(Failure.of(error))
    else:
        desk.deliver(None)


class _ParentLeftError(Exception):
    """Nobody waits for frames any more."""


class _Desk:
    """Where what was tracked lies until the parent asks for it; a thread of its own answers."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._changed = threading.Condition()
        self._items: list[Any] = []
        self._needed = 0.0
        self._has_left = False
        threading.Thread(target=self._answer, name="answer", daemon=True).start()

    def rest(self, lead_s: float) -> None:
        """Wait until the next frame has to be begun to be there in time, if it takes ``lead_s`` seconds."""
        with self._changed:
            self._wait(lambda: False, max(0.0, self._needed - lead_s - time.perf_counter()))

    def deliver(self, item: Any) -> None:
        """Lay something down and wait until it is taken."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()
            self._wait(lambda: not self._items)

    def offer(self, item: Any) -> None:
        """Lay something down in place of what was not taken."""
        with self._changed:
            self._items[:] = [item]
            self._changed.notify_all()
            self._wait(lambda: True)

    def _wait(self, is_over: Callable[[], bool], timeout_s: float | None = None) -> None:
        self._changed.wait_for(lambda: self._has_left or is_over(), timeout_s)
        if self._has_left:
            raise _ParentLeftError

    def _answer(self) -> None:
        while self._give():
            continue
        with self._changed:
            self._has_left = True
            self._changed.notify_all()
        # A camera that delivers nothing must not keep this process.
        time.sleep(_GRACE_S)
        os._exit(1)

    def _give(self) -> bool:
        """Give the parent what it asks for; False if it has left."""
        try:
            busy_s: float = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return False
        with self._changed:
            while not self._changed.wait_for(lambda: bool(self._items), _CHECK_S):
                # It asks once at a time, so this is the end of the pipe.
                if self._pipe.poll():
                    return False
            item = self._items.pop(0)
            self._needed = time.perf_counter() + busy_s
            self._changed.notify_all()
        return tell(self._pipe, item)
