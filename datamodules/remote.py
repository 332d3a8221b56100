"""Remote datasets: files are fetched whole, verified, and kept in a cache shared by all processes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datamodules import fetching
from datamodules.manifest import Manifest, ManifestShard
from datamodules.shards import sha256_of
from datamodules.split_index import check_rows
from rome_lightning.media.atomic import atomic_path
from rome_lightning.media.digest import file_sha256

_PARALLEL = 16
_DAMAGED_TRIES = 3
"""A file that arrives damaged this often is damaged at its source."""
_ADDRESS = re.compile(r"[\w:/.@%+~=&?,\[\]-]+")
"""Characters that are safe in the command lines that fetch some addresses."""


def is_remote(address: str) -> bool:
    """Whether an address is not a path on this machine."""
    return "://" in address or address.startswith("pipe:")


@dataclass(frozen=True)
class RemoteFolder:
    """The source of a dataset's files and their local cache."""

    address: str
    """Address of the folder, or a command with ``{}``."""
    cache: Path
    limit_bytes: int | None = None
    """Space for the shards of all datasets beside ``cache``: the least recently used are removed before
    another is fetched. Shards that are fetched at the same time may exceed it until the last is there. None
    keeps all."""

    def fetch(
        self,
        name: str,
        num_bytes: int | None = None,
        sha256: str | None = None,
        verify_kept: bool = False,
        check: Callable[[Path], object] | None = None,
    ) -> Path:
        """The local copy of a file of the dataset; fetched once for all processes.

        Args:
            name: of the file.
            num_bytes: expected size.
            sha256: expected digest.
            verify_kept: also compare a cached file with both, and fetch it again if it differs.
            check: further check of a fetched or cached file; if it raises ValueError, the file is fetched
                again.

        Raises:
            OSError: it cannot be fetched.
            ValueError: it is still wrong after several fetches.
        """
        path = self.cache / name
        if self._is_good(path, num_bytes, sha256 if verify_kept else None, check):
            return path
        self.cache.mkdir(parents=True, exist_ok=True)
        with _locked(self.cache / f".{name}.lock"):
            # Another process may have fetched it in the meantime.
            if not self._is_good(path, num_bytes, sha256 if verify_kept else None, check):
                self._replace(path, num_bytes, sha256, check)
        return path

    @staticmethod
    def _is_good(
        path: Path, num_bytes: int | None, sha256: str | None, check: Callable[[Path], object] | None
    ) -> bool:
        try:
            if num_bytes is not None and path.stat().st_size != num_bytes:
                return False
            if sha256 is not None and file_sha256(path) != sha256:
                return False
            if check is not None:
                check(path)
            return path.exists()
        except (FileNotFoundError, ValueError):
            # Another process may remove it at any moment to make room.
            return False

    def _replace(
        self, path: Path, num_bytes: int | None, sha256: str | None, check: Callable[[Path], object] | None
    ) -> None:
        """Fetch a file, and again if it arrives damaged."""
        limit_bytes = self.limit_bytes if path.suffix == ".tar" else None
        for tried in range(1, _DAMAGED_TRIES + 1):
            try:
                with atomic_path(path) as temporary:
                    if limit_bytes is not None and num_bytes is not None:
                        self._reserve(temporary, num_bytes, limit_bytes)
                    self._download(path.name, temporary, num_bytes, sha256)
                    if check is not None:
                        check(temporary)
                if limit_bytes is not None:
                    # Processes that fetch at the same time may exceed the limit together.
                    self._evict(limit_bytes, path)
                return
            except ValueError as error:
                if tried == _DAMAGED_TRIES:
                    raise ValueError(
                        f"{self.url(path.name)} arrived {tried} times with the wrong content ({error}); it "
                        "is damaged there or belongs to another version: upload it again"
                    ) from error

    def _download(self, name: str, target: Path, num_bytes: int | None, sha256: str | None) -> None:
        try:
            found = fetching.download(self.url(name), target)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                hint = "set data.init_args.cache_limit_gb, or ROME_CACHE to a folder with more space"
            else:
                hint = "check the address and your permission to read it"
            text = f"cannot fetch {self.url(name)} ({error}); {hint}"
            # With two arguments, OSError takes the first for an error number.
            raise (OSError(text) if error.errno is None else OSError(error.errno, text)) from error
        if (num_bytes, sha256) not in ((None, None), found):
            raise ValueError(
                f"{found[0]} bytes with sha256 {found[1][:12]}, the manifest wants {num_bytes} with "
                f"{str(sha256)[:12]}"
            )

    def fetch_shard(self, shard: ManifestShard) -> Path:
        """The tar of a shard; with a limit another process may remove it again at any moment."""
        path = self.fetch(f"{shard.name}.tar", shard.bytes, shard.sha256)
        # Access order, by which shards are removed.
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def _reserve(self, target: Path, num_bytes: int, limit_bytes: int) -> None:
        """Reserve a file's space in advance, and remove shards to make room for it."""
        os.truncate(target, num_bytes)
        self._evict(limit_bytes, target)

    def _evict(self, limit_bytes: int, kept: Path) -> None:
        """Remove shards until all fit in ``limit_bytes``; never ``kept``.

        Removes the least recently opened shards; a process that has one open can continue reading.
        """
        with _locked(self.cache.parent / ".room.lock"):
            found, total = [], 0
            # Shards that other processes are fetching count too, and are kept.
            for path in (*self.cache.parent.glob("*/*.tar"), *self.cache.parent.glob("*/.*.tar.*.tmp")):
                with contextlib.suppress(FileNotFoundError):
                    state = path.stat()
                    total += state.st_size
                    if path.suffix == ".tar" and path != kept:
                        found.append((state.st_mtime_ns, state.st_size, path))
            for _, size, path in sorted(found):
                if total <= limit_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= size

    def fetch_indices(self, shards: Sequence[ManifestShard], with_params: bool) -> None:
        """The index files of shards of a dataset without a joined index, several at a time.

        Args:
            shards: of the dataset.
            with_params: whether shards have ``NAME.params.npy``.
        """
        kinds = ("frames", "clips", "params") if with_params else ("frames", "clips")

        def fetch(task: tuple[ManifestShard, str]) -> None:
            shard, kind = task
            check = partial(check_rows, kind=kind, count=shard.clips if kind == "clips" else shard.frames)
            self.fetch(f"{shard.name}.{kind}.npy", check=check)

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_PARALLEL) as pool:
            for _ in pool.map(fetch, [(shard, kind) for shard in shards for kind in kinds]):
                pass

    def url(self, name: str) -> str:
        """The address of a file."""
        if self.address.startswith("pipe:"):
            return self.address.replace("{}", name)
        return f"{self.address.rstrip('/')}/{name}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, signalling that this process is alive while it waits."""
    # Imported here because it needs modules that workers of local datasets never need.
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            fetching.tell_alive()
    try:
        yield
    finally:
        lock.release()


def open_remote(address: str, cache: Path, limit_bytes: int | None = None) -> tuple[Manifest, RemoteFolder]:
    """The manifest at an address, and the source of its shards.

    The manifest itself is fetched each time: it says which version of the dataset is meant.

    Args:
        address: of the dataset's folder or its ``manifest.json``; a command must have ``{}``.
        cache: folder for the files of all datasets.
        limit_bytes: see ``RemoteFolder.limit_bytes``.

    Raises:
        OSError: it cannot be fetched.
        ValueError: it is not a manifest, or the address has no placeholder for a file name.
    """
    if not address.startswith("pipe:") and not _ADDRESS.fullmatch(address):
        raise ValueError(
            f"{address!r} is not a valid address: write quotes, spaces and similar characters as %XX"
        )
    if address.startswith("pipe:") and "{}" not in address:
        raise ValueError(f"{address}: a command needs {{}} as the placeholder for a file name")
    folder = address.removesuffix("/manifest.json")
    remote = RemoteFolder(folder, cache / sha256_of(folder)[:16], limit_bytes)
    path = remote.cache / "manifest.json"
    loaded = []

    def load(file: Path) -> None:
        try:
            loaded.append(Manifest.load(file, check_files=False))
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), remote.url(path.name))) from error

    # Not under a lock: other processes do the same now, each under its own name.
    remote._replace(path, None, None, load)
    [manifest] = loaded
    # Named by content, so that a new version at the same address cannot mix with files of the old one.
    return manifest, replace(remote, cache=cache / manifest.hash[:16])
