"""Tasks on a local Ray cluster give the same results as local runs, even if a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engine_checks import files_of, prepare_squares, write_videos

from datamodules.prepare import BuildOptions

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines")

OWN = "ROME_TEST_RAY"
"""Environment variable that identifies the processes of this test's cluster."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray with two CPUs and workers that use this checkout."""
    root = Path(__file__).parents[2]
    folders = (root, root / "tests", root / "tests" / "datamodules")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.setenv(OWN, str(tmp_path))
    # Somebody else's cluster, if this machine belongs to one.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _tasks() -> list[int]:
    """Processes that make shards in this test's cluster."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            # It has ended, or belongs to another user.
            continue
        if b"ray::_run_share" in title and f"{OWN}={os.environ[OWN]}".encode() in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def _kill_a_task(output: Path) -> int:
    """Kill a task's process once it has started to work; returns its id."""
    for _ in range(2000):
        tasks = _tasks() if any(output.glob(".parts/*")) else []
        if tasks:
            os.kill(tasks[0], signal.SIGKILL)
            return tasks[0]
        time.sleep(0.05)
    raise TimeoutError("no task of Ray is at work")


@pytest.mark.parametrize("killed", [False, True])
def test_prepare_gives_the_same_bytes(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    videos = write_videos(tmp_path / "videos", 12)
    prepare_squares(videos, tmp_path / "local", BuildOptions(workers=0))
    # A relative folder: tasks start elsewhere.
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor() as pool:
        killer = pool.submit(_kill_a_task, tmp_path / "tasks") if killed else None
        said = prepare_squares(videos, Path("tasks"), BuildOptions(workers=0, engine="ray", jobs=2))
    assert sum("shards done" in line for line in said) == 2
    if killer is not None:
        assert killer.result() not in _tasks()
    assert files_of(tmp_path / "tasks") == files_of(tmp_path / "local")
