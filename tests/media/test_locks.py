"""Folders have one writer, and others are told who it is."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from rome_lightning.media.locks import LOCK, owned

_HOLD = """
import sys, time
from pathlib import Path
from rome_lightning.media.locks import owned
with owned(Path(sys.argv[1]), "rome fit"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_is_there(tmp_path, owner):
    said = rf"written by rome fit \(process {owner.pid} on .*, since 2"
    with pytest.raises(ValueError, match=said), owned(tmp_path, "rome fit"):
        pass
    # Looking does not release the lock, and a damaged note only hides the name.
    (tmp_path / LOCK).write_text("{")
    with pytest.raises(ValueError, match="written by another process"), owned(tmp_path, "rome fit"):
        pass


def test_what_a_killed_process_leaves_locks_nobody_out(tmp_path, owner):
    owner.kill()
    owner.wait()
    assert (tmp_path / LOCK).exists()
    with owned(tmp_path, "rome fit"):
        assert re.search("rome fit", (tmp_path / LOCK).read_text())
    assert not list(tmp_path.iterdir())


def test_other_names_and_later_owners_are_let_in(tmp_path, owner):
    with owned(tmp_path, "rome evaluate", ".other.lock"):
        pass
    for _ in range(2):
        with owned(tmp_path / "new" / "folder", "rome prepare"):
            pass
    assert owner.poll() is None


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), owned(tmp_path, "rome fit"):
        time.sleep(0)
    assert (tmp_path / "elsewhere").read_text() == "kept"
