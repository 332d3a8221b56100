"""Checkpoint files: complete or absent, verified, and never executed."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from rome_lightning.training import checkpointing
from rome_lightning.training.checkpointing import (
    RunCheckpointIO,
    newest_valid,
    rotate,
    set_aside_damaged,
    verify_checkpoint,
)


def _write(path: Path, value: int) -> Path:
    RunCheckpointIO().save_checkpoint({"weights": torch.full((1000,), value), "value": value}, path)
    return path


def _value(path: Path) -> int:
    return RunCheckpointIO().load_checkpoint(path)["value"]


def test_a_damaged_byte_or_a_missing_end_is_found(tmp_path):
    path = _write(tmp_path / "last.ckpt", 1)
    verify_checkpoint(path)
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        content[:-1],
        b"",
        content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
        content[:200] + bytes([content[200] ^ 1]) + content[201:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint"):
            verify_checkpoint(path)
        with pytest.raises(ValueError, match="is not a readable checkpoint"):
            RunCheckpointIO().load_checkpoint(path)


def test_the_one_before_is_kept_and_found(tmp_path):
    for value in (1, 2, 3):
        rotate(_write(tmp_path / ".new.ckpt", value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert (_value(tmp_path / "last.ckpt"), _value(tmp_path / "previous.ckpt")) == (3, 2)
    assert newest_valid(tmp_path) == tmp_path / "last.ckpt"
    (tmp_path / "last.ckpt").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"last\.ckpt is not .*falling back to previous\.ckpt"):
        assert newest_valid(tmp_path) == tmp_path / "previous.ckpt"
    # The damaged one must not replace the intact one.
    set_aside_damaged(tmp_path / "last.ckpt")
    rotate(_write(tmp_path / ".new.ckpt", 4))
    assert (_value(tmp_path / "last.ckpt"), _value(tmp_path / "previous.ckpt")) == (4, 2)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.warns(UserWarning, match="falling back"), pytest.raises(ValueError, match="no checkpoint in"):
        newest_valid(tmp_path)
    assert newest_valid(tmp_path / "nothing") is None


def test_rotation_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(checkpointing.os, "link", refuse)
    for value in (1, 2):
        rotate(_write(tmp_path / ".new.ckpt", value))
    assert (_value(tmp_path / "last.ckpt"), _value(tmp_path / "previous.ckpt")) == (2, 1)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = _write(tmp_path / "last.ckpt", 1)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpointing.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        _write(path, 2)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert _value(path) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_torch_says_of_a_full_disk_is_an_error_of_files(tmp_path, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: opened(Path("/dev/full"), mode))
    with pytest.raises(OSError, match=r"No space left|cannot write"):
        _write(tmp_path / "last.ckpt", 1)
    assert list(tmp_path.iterdir()) == []


class _Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"value": _Attack()}, "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        # Lightning passes its caller's arguments on.
        RunCheckpointIO().load_checkpoint(Path("last.ckpt"), weights_only=False)
    assert not Path("attacked").exists()
