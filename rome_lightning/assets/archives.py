"""Reads one named file out of a package archive without installing or running anything."""

from __future__ import annotations

import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rome_lightning.media.tars import open_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BLOCK_BYTES = 1 << 20


class SourceError(Exception):
    """One source did not give the file; the text says why, and the next source is tried."""


def copy_limited(
    reader: IO[bytes], target: Path, limit: int | None, advance: Callable[[int], object] | None = None
) -> int:
    """Copies a stream into a new file and stops with an error once it is too long.

    Args:
        reader: where the bytes come from.
        target: the file that is written.
        limit: the number of bytes that the stream may have; None for any.
        advance: told the size of each block that was written.

    Returns:
        The number of bytes written.
    """
    num_bytes = 0
    with target.open("wb") as file:
        while block := reader.read(_BLOCK_BYTES):
            num_bytes += len(block)
            if limit is not None and num_bytes > limit:
                raise SourceError(f"the file is longer than the expected {limit:,} bytes")
            file.write(block)
            if advance is not None:
                advance(len(block))
    return num_bytes


@contextmanager
def _open_tar_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    with open_tar(archive) as tar:
        try:
            info = tar.getmember(member)
        except KeyError:
            raise SourceError(f"{archive.name} has no file {member}") from None
        # A link could point at any other member, so only plain files are read.
        reader = tar.extractfile(info) if info.isreg() else None
        if reader is None:
            raise SourceError(f"{member} in {archive.name} is not a plain file")
        with reader:
            yield reader


@contextmanager
def _open_zip_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(archive) as bundle:
        try:
            reader = bundle.open(member)
        except KeyError:
            raise SourceError(f"{archive.name} has no file {member}") from None
        with reader:
            yield reader


def extract_member(archive: Path, member: str, target: Path, limit: int | None = None) -> None:
    """Writes one member of a zip or tar archive to a path of the caller's choice.

    The member's own name never becomes a path on disk, so an archive with names such as
    ``../../x`` cannot write outside ``target``.

    Args:
        archive: a wheel, zip or tarball.
        member: the exact name of the file inside it.
        target: the file that is written.
        limit: bytes that the member may have; None for any.

    Raises:
        SourceError: the archive is damaged, lacks the member, or the member is a link or too long.
    """
    opener = _open_zip_member if zipfile.is_zipfile(archive) else _open_tar_member
    try:
        with opener(archive, member) as reader:
            copy_limited(reader, target, limit)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise SourceError(f"{archive.name} is damaged: {error}") from error
