"""Tars that Python's own module reads forever, or only in part."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from rome_lightning.assets.archives import SourceError, extract_member
from rome_lightning.media.tars import tar_members

NAMES = ["anna_0.png", "anna_1.png", "anna_2.png"]


def tar(path: Path, names: list[str] = NAMES, padding: int = tarfile.RECORDSIZE) -> bytearray:
    """A tar with a header every 1024 bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 512
            archive.addfile(info, io.BytesIO(name[:1].encode() * 512))
    data = bytearray(file.getvalue()[: len(names) * 1024] + bytes(padding))
    path.write_bytes(data)
    return data


def change(data: bytearray, header: int, field: slice, value: bytes) -> bytearray:
    """Change a value in a header and update its checksum."""
    block = data[header : header + 512]
    block[field] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:header] + block + data[header + 512 :]


def test_whole_tars_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    for padding in (0, 512, 1024, 10240):
        tar(path, padding=padding)
        assert [member.name for member in tar_members(path)] == NAMES
    tar(path, [])
    assert tar_members(path) == []


def test_a_size_below_zero_does_not_lead_back(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    negative = b"\xff" + (-512 & ((1 << 88) - 1)).to_bytes(11, "big")
    path.write_bytes(change(tar(path), 1024, slice(124, 136), negative))
    with pytest.raises(ValueError, match="negative size"):
        tar_members(path)
    with pytest.raises(SourceError, match="negative size"):
        extract_member(path, "no such member", tmp_path / "out")


@pytest.mark.parametrize("header", [0, 1024, 2048])
def test_a_damaged_header_is_not_the_end(tmp_path: Path, header: int) -> None:
    path = tmp_path / "x.tar"
    data = tar(path)
    data[header + 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        tar_members(path)


def test_joined_tars_are_not_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar(path) + tar(path, ["ben_0.png"]))
    with pytest.raises(ValueError, match="continues after its end"):
        tar_members(path)


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    data = tar(path, padding=0)
    for end in (700, 1024 + 200, 1024 + 600):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"truncated|damaged"):
            tar_members(path)
