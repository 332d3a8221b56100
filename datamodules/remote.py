"""Datasets at addresses: files are fetched whole, checked, and kept in a cache that all processes share.

Addresses are those of the ``webdataset`` library (``https://...``, ``gs://...``, ``hf://...``), ``s3://...``
through the ``aws`` program, and ``pipe:COMMAND`` with ``{}`` in place of the file's name.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from datamodules.manifest import Manifest, ManifestShard
from datamodules.shards import sha256_of
from rome_lightning.media.atomic import atomic_path

_CHUNK = 1 << 20
_ADDRESS = re.compile(r"[\w:/.@%+~=&?,\[\]-]+")
"""What is safe in the command lines that fetch some addresses."""


def is_remote(address: str) -> bool:
    """Whether an address is not a path on this machine."""
    return "://" in address or address.startswith("pipe:")


@dataclass(frozen=True)
class RemoteFolder:
    """Where the files of a dataset come from, and where they are kept."""

    address: str
    """Of the folder, or a command with ``{}``."""
    cache: Path

    def fetch(self, name: str, num_bytes: int | None = None, sha256: str | None = None) -> Path:
        """A file of the dataset on this machine; fetched once, whoever asks.

        Args:
            name: of the file.
            num_bytes: that it must have.
            sha256: that it must have.

        Raises:
            OSError: it cannot be fetched.
            ValueError: it is not what it should be.
        """
        path = self.cache / name
        if path.exists():
            return path
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(self.cache / f".{name}.lock"):
            if not path.exists():
                with atomic_path(path) as temporary:
                    found = self._download(name, temporary)
                    if (num_bytes, sha256) not in ((None, None), found):
                        raise ValueError(
                            f"{self._url(name)} has {found[0]} bytes with sha256 {found[1][:12]}, the "
                            f"manifest wants {num_bytes} with {str(sha256)[:12]}; it is damaged or of "
                            "another version: copy it there again"
                        )
        return path

    def fetch_shard(self, shard: ManifestShard) -> Path:
        """The tar of a shard."""
        return self.fetch(f"{shard.name}.tar", shard.bytes, shard.sha256)

    def _url(self, name: str) -> str:
        if self.address.startswith("pipe:"):
            return self.address.replace("{}", name)
        url = f"{self.address.rstrip('/')}/{name}"
        # The library knows no s3; its users write this command.
        return f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url

    def _download(self, name: str, target: Path) -> tuple[int, str]:
        """Copy into a file; returns its size and hash."""
        # Only here, where it is needed: the library imports torch, and workers start without.
        from webdataset.gopen import gopen

        url, size, digest = self._url(name), 0, hashlib.sha256()
        try:
            with gopen(url, "rb") as stream, target.open("wb") as file:
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as error:
            raise OSError(
                f"cannot fetch {url} ({error}); check the address and your permission to read it"
            ) from error
        return size, digest.hexdigest()


def open_remote(address: str, cache: Path) -> tuple[Manifest, RemoteFolder]:
    """The manifest at an address, and where the shards it names will come from.

    The manifest itself is fetched each time: it says which version of the dataset is meant.

    Args:
        address: of the dataset's folder or its ``manifest.json``; a command must have ``{}``.
        cache: folder for the files of all datasets.

    Raises:
        OSError: it cannot be fetched.
        ValueError: it is no manifest, or the address has no place for a name.
    """
    if not address.startswith("pipe:") and not _ADDRESS.fullmatch(address):
        raise ValueError(f"{address!r} is no address: quotes, spaces and the like are spelt %XX in one")
    if address.startswith("pipe:") and "{}" not in address:
        raise ValueError(f"{address}: a command needs {{}} where the name of a file is to stand")
    folder = address.removesuffix("/manifest.json")
    own = cache / sha256_of(folder)[:16]
    first = RemoteFolder(folder, own)
    (own / "manifest.json").unlink(missing_ok=True)
    manifest = Manifest.load(first.fetch("manifest.json"), check_files=False)
    # By content, so that a new version at the same address does not meet the files of the old one.
    return manifest, RemoteFolder(folder, cache / manifest.hash[:16])
