"""A digest in every file that we write, so that reading detects a changed byte.

It detects accidents: bad disks, truncated copies, careless edits. Whoever changes a file on purpose can
change its digest too, so it does not prove where a file comes from.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from pathlib import Path
from typing import BinaryIO

_MARK = b"\nsha256:"
SEAL_BYTES = len(_MARK) + hashlib.sha256().digest_size * 2
"""Length of the suffix that ``seal`` appends."""
_END_OF_ZIP = b"PK\5\6"
_END_OF_ZIP_LENGTH = 22
_log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(data: bytes) -> bytes:
    """The same bytes, followed by their SHA-256; for formats whose readers ignore what comes last."""
    return data + _MARK + hashlib.sha256(data).hexdigest().encode()


def seal_archive(file: BinaryIO) -> None:
    """Put the SHA-256 of a finished ZIP archive into the archive's comment.

    Args:
        file: open for reading and writing, with nothing but the archive in it.
    """
    file.seek(-2, 2)
    file.write(SEAL_BYTES.to_bytes(2, "little"))
    num_bytes = file.tell()
    file.seek(0)
    digest = _hash_of(file, num_bytes)
    file.seek(0, 2)
    file.write(_MARK + digest)


def is_sealed(path: Path) -> bool:
    """Whether a file ends with a digest, right or wrong."""
    with path.open("rb") as file:
        if file.seek(0, 2) < SEAL_BYTES:
            return False
        file.seek(-SEAL_BYTES, 2)
        return file.read(len(_MARK)) == _MARK


def check_seal(path: Path) -> bool:
    """Whether a file ends with the SHA-256 of what is before; false if it has none.

    Raises:
        ValueError: it has one, and its content has changed.
    """
    with path.open("rb") as file:
        num_bytes = path.stat().st_size - SEAL_BYTES
        if num_bytes < 0:
            return False
        file.seek(num_bytes)
        stated = file.read(SEAL_BYTES)
        if not stated.startswith(_MARK):
            return False
        file.seek(0)
        if _hash_of(file, num_bytes) != stated[len(_MARK) :]:
            raise ValueError("its content does not match its SHA-256")
    return True


def unsealed(data: bytes) -> bytes:
    """The bytes passed to ``seal``; data without a digest is returned unchanged."""
    return data[:-SEAL_BYTES] if data[-SEAL_BYTES:].startswith(_MARK) else data


def check_archive(path: Path) -> bool:
    """Check a ZIP archive against its digest, or member by member against the CRC-32 of each.

    Returns:
        Whether it has a digest.

    Raises:
        ValueError: it is truncated, damaged or not an archive.
    """
    try:
        if check_seal(path):
            return True
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            trailing = archive.comment
    except Exception as error:
        # The archive reader's exception depends on where the damage is.
        raise ValueError(f"truncated or damaged ({error})") from error
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    if trailing or not _ends_as_archive(path):
        raise ValueError("damaged at its end")
    return False


def note_missing(path: Path, what: str) -> None:
    """Say that a file is from before there were digests, and what is known of it."""
    _log.warning("%s has no SHA-256 of its own, %s", path, what)


def _ends_as_archive(path: Path) -> bool:
    """Whether nothing follows the archive's last record."""
    with path.open("rb") as file:
        file.seek(-_END_OF_ZIP_LENGTH, 2)
        return file.read(len(_END_OF_ZIP)) == _END_OF_ZIP


def _hash_of(file: BinaryIO, num_bytes: int) -> bytes:
    """SHA-256 of the next bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    while num_bytes > 0:
        block = file.read(min(num_bytes, 1 << 20))
        digest.update(block)
        num_bytes -= len(block) or num_bytes
    return digest.hexdigest().encode()
