"""Tar archives from outside: every member is listed, or the archive is refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

_BLOCK = tarfile.BLOCKSIZE


class _Member(tarfile.TarInfo):
    """A header whose size cannot point back to itself.

    Python before 3.11.14, 3.12.12 and 3.13.6 reads such archives forever (CVE-2025-8194).
    """

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a member has a negative size")
        return -(-count // _BLOCK) * _BLOCK


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar, compressed or not, for reading.

    Raises:
        tarfile.TarError: it is no tar; reading its members raises this too.
    """
    return tarfile.open(path, tarinfo=_Member)


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """All members of an uncompressed tar.

    ``tarfile`` itself mistakes a damaged header for the end of the archive.

    Raises:
        ValueError: it is not a tar, damaged, truncated, or several tars in a row.
    """
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as tar:
            members = tar.getmembers()
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a tar or is damaged: {error}") from error
    size = path.stat().st_size
    for member in members:
        if member.isfile() and member.offset_data + member.size > size:
            raise ValueError(f"{path} is truncated: it ends within {member.name}")
    _check_end(path, end, members[-1].name if members else "its beginning")
    return members


def _check_end(path: Path, end: int, last: str) -> None:
    """Refuse what ``tarfile`` would silently skip."""
    with path.open("rb") as file:
        file.seek(end)
        if any(file.read(_BLOCK)):
            raise ValueError(f"{path} is damaged: {last} is not followed by a tar header")
        while block := file.read(1 << 20):
            if any(block):
                raise ValueError(
                    f"{path} continues after its end, like concatenated tars; import them one by one, or "
                    "join them with tar --concatenate"
                )
