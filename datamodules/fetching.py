"""Fetch files from addresses: transports, retries after network faults, and signs of life.

``http://`` and ``https://`` by Python's own client; ``s3://`` and other stores by ``fsspec`` if its driver
for that store is installed (``pip install 'rome-lightning[s3]'``), else ``s3://`` by the program ``aws``;
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
"""Waits before further attempts at an address that does not answer or stops midway."""
STALL_S = 60.0
"""A connection that delivers nothing for this long is closed and retried."""
_CHUNK = 1 << 20
_PIECE = 1 << 16
"""Block size of sources that deliver nothing before a block is complete."""
_log = logging.getLogger(__name__)
_listener: Callable[[], None] | None = None


def on_alive(listener: Callable[[], None]) -> None:
    """Register the function that is called periodically while this process fetches, or waits for another."""
    global _listener
    _listener = listener


def tell_alive() -> None:
    """Signal that a wait is not a hang."""
    if _listener is not None:
        _listener()


class _RefusedError(OSError):
    """A response that another attempt would not change."""


def download(url: str, target: Path) -> tuple[int, str]:
    """Copy the content of an address into an existing file; return its size and sha256.

    Raises:
        OSError: it cannot be fetched, even after retries where those may help.
    """
    for number, delay_s in enumerate((*RETRY_DELAYS_S, None), start=1):
        try:
            return _copy(url, target)
        except OSError as error:
            final = isinstance(error, _RefusedError | FileNotFoundError | PermissionError)
            if final or error.errno == errno.ENOSPC or delay_s is None:
                raise
            _log.warning("%s: attempt %d failed (%s); trying again", url, number, error)
            # Random, so that the processes of a job do not retry at the same moment.
            end_s = time.monotonic() + delay_s * random.uniform(0.5, 1.5)
            while (left_s := end_s - time.monotonic()) > 0:
                time.sleep(min(left_s, 1.0))
                tell_alive()
    raise AssertionError("the last attempt returns or raises")


def _copy(url: str, target: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    # Not truncated first: its size may reserve the space.
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
    # Imported only where needed: workers start without them.
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "rome-lightning"})
    try:
        with _patience() as call, call(urllib.request.urlopen, request, timeout=STALL_S) as response:
            stated = response.headers.get("Content-Length")
            left = int(stated) if stated else None
            # Bytes received so far: a slow connection is alive too.
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
    """Fsspec's file system for an address; None if its driver is not installed."""
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
        # Its clients close silent connections themselves, but deliver whole blocks.
        with (
            _patience() as call,
            call(file_system.open, url, "rb", block_size=16 * _CHUNK, cache_type="readahead") as file,
        ):
            while chunk := call(file.read, 4 * _CHUNK):
                yield chunk
    except OSError:
        raise
    except Exception as error:
        # Store clients raise their own exception classes, from libraries that may not be installed.
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _patience(limit_s: float = math.inf) -> Iterator[Callable[..., Any]]:
    """Make calls that may block and signal meanwhile that this process lives, up to ``limit_s`` each."""
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
    # The library imports torch, which workers start without.
    from webdataset.gopen import gopen

    # Its commands may hang forever: after a while this process counts as hung too and is replaced.
    with _patience(STALL_S) as call, call(gopen, url, "rb") as stream:
        while chunk := call(stream.read, _PIECE):
            yield chunk
