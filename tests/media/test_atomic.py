"""Files are complete or absent, and failed writes leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rome_lightning.media import atomic
from rome_lightning.media.atomic import alias, atomic_file, atomic_path, temporary_for, write_atomic


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomic(path, "ä")
    assert path.read_bytes() == "ä".encode()
    write_atomic(path, b"other")
    assert path.read_bytes() == b"other"
    assert _names(path.parent) == ["a.txt"]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("block", [atomic_file, atomic_path])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, block) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write() -> None:
        with block(path):
            assert path.read_bytes() == b"old"
            assert len(_names(tmp_path)) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]


def test_content_and_name_are_on_disk_before_the_call_returns(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    write_atomic(tmp_path / "a", b"1")
    assert calls == ["content", "rename", "folder"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert _names(tmp_path) == ["a"]


def test_what_killed_processes_left_is_collected(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from rome_lightning.media.atomic import atomic_file\n"
        "with atomic_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    (left,) = tmp_path.iterdir()
    fresh = temporary_for(tmp_path / "b")
    foreign = tmp_path / ".a.other.tmp"
    foreign.touch()
    old = time.time() - atomic.STALE_SECONDS - 10
    for path in (left, foreign):
        os.utime(path, (old, old))
    # Searched once per process and folder.
    atomic._collect_stale.cache_clear()
    write_atomic(tmp_path / "c", b"")
    assert _names(tmp_path) == sorted([".a.other.tmp", fresh.name, "c"])


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name(tmp_path: Path, monkeypatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    for _ in range(2):
        alias(source, target)
        assert target.read_bytes() == b"new"
        assert source.samefile(target) == links
    assert _names(tmp_path) == ["a", "b"]
