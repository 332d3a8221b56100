"""How a file comes from an address: the ways, retries after faults of the network, and signs of life.

``http://`` and ``https://`` by Python's own client; ``s3://`` and other stores by ``fsspec`` if its part for
that store is installed (``pip install 'rome-lightning[s3]'``), else ``s3://`` by the program ``aws``;
``pipe:COMMAND`` and the remaining kinds (``gs://``, ``hf://``) by the ``webdataset`` library.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import random
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before each further attempt at an address that does not answer, or stops in the middle."""
STALL_S = 60.0
"""A connection that brings nothing for so long is given up, and tried again."""
_CHUNK = 1 << 20
_PIECE = 1 << 16
"""Of what brings nothing before it has so much."""
_log = logging.getLogger(__name__)
_listener: Callable[[], None] | None = None


def on_alive(listener: Callable[[], None]) -> None:
    """Register the function that is called periodically while this process fetches, or waits for another."""
    global _listener
    _listener = listener


def tell_alive() -> None:
    """Say that a wait is not a hang."""
    if _listener is not None:
        _listener()


class _RefusedError(OSError):
    """An answer that another attempt would not change."""


def download(url: str, target: Path) -> tuple[int, str]:
    """Copy what an address holds into a file that exists; gives its size and sha256.

    Raises:
        OSError: it cannot be fetched, after several attempts where another may help.
    """
    for number, delay_s in enumerate((*RETRY_DELAYS_S, None), start=1):
        try:
            return _copy(url, target)
        except OSError as error:
            final = isinstance(error, _RefusedError | FileNotFoundError | PermissionError)
            if final or error.errno == errno.ENOSPC or delay_s is None:
                raise
            _log.warning("%s: attempt %d failed (%s); trying again", url, number, error)
            # Not all processes of a job at the same moment.
            end_s = time.monotonic() + delay_s * random.uniform(0.5, 1.5)
            while (left_s := end_s - time.monotonic()) > 0:
                time.sleep(min(left_s, 1.0))
                tell_alive()
    raise AssertionError("the last attempt returns or raises")


def _copy(url: str, target: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    # Not emptied first: its size may be what holds the space.
    with target.open("r+b") as file:
        for chunk in _chunks(url):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            tell_alive()
        file.truncate()
    return size, digest.hexdigest()


def _chunks(url: str) -> Iterator[bytes]:
    kind = url.partition(":")[0]
    if kind in ("http", "https"):
        return _from_web(url)
    file_system = None if kind == "pipe" else _file_system(url)
    if file_system is not None:
        return _from_store(file_system, url)
    # The library knows no s3; its users write this command.
    return _from_library(f"pipe:aws s3 cp {shlex.quote(url)} -" if kind == "s3" else url)


def _from_web(url: str) -> Iterator[bytes]:
    # Only where they are needed: workers start without them.
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "rome-lightning"})
    try:
        with _patience() as call, call(urllib.request.urlopen, request, timeout=STALL_S) as response:
            stated = response.headers.get("Content-Length")
            left = int(stated) if stated else None
            # What has arrived: a slow line is alive too.
            while chunk := call(response.read1, _CHUNK):
                left = None if left is None else left - len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        passing = error.code in (408, 429) or error.code >= 500
        raise (OSError if passing else _RefusedError)(f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException) as error:
        raise OSError(f"{getattr(error, 'reason', None) or error}") from error
    if left:
        raise OSError(f"the connection ended {left} bytes too early")


def _file_system(url: str) -> Any:
    """Fsspec's file system for an address; None if its part for that kind is not installed."""
    import fsspec

    kind = url.partition(":")[0]
    if kind not in fsspec.available_protocols() or kind in ("gs", "hf"):
        return None
    try:
        return fsspec.filesystem(kind)
    except ImportError:
        return None


def _from_store(file_system: Any, url: str) -> Iterator[bytes]:
    try:
        # Its clients give up a silent connection by themselves, but bring whole parts.
        with (
            _patience() as call,
            call(file_system.open, url, "rb", block_size=16 * _CHUNK, cache_type="readahead") as file,
        ):
            while chunk := call(file.read, 4 * _CHUNK):
                yield chunk
    except OSError:
        raise
    except Exception as error:
        # Clients of stores raise classes of their own, of libraries that need not be installed.
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _patience(limit_s: float = math.inf) -> Iterator[Callable[..., Any]]:
    """Makes calls that may wait, and tells meanwhile that this process lives, each time for ``limit_s``."""
    from concurrent.futures import ThreadPoolExecutor, wait

    with ThreadPoolExecutor(1) as pool:

        def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            future = pool.submit(function, *arguments, **options)
            end_s = time.monotonic() + limit_s
            while not wait([future], timeout=0.5).done:
                if time.monotonic() < end_s:
                    tell_alive()
            return future.result()

        yield call


def _from_library(url: str) -> Iterator[bytes]:
    # The library imports torch, and workers start without.
    from webdataset.gopen import gopen

    # Its commands may hang for ever: after a time this process counts as hung too, and is replaced.
    with _patience(STALL_S) as call, call(gopen, url, "rb") as stream:
        while chunk := call(stream.read, _PIECE):
            yield chunk
