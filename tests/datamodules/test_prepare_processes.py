"""Child processes that crash, hang, fail, or lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare.processes import GivenUp, default_workers, run_tasks


def obey(folder: Path) -> Callable[[str], str]:
    """A worker that does what its task says, and records each start in a file named after the task."""

    def work(task: str) -> str:
        with (folder / task).open("a") as notes:
            notes.write("x")
        what = task.split("-")[0]
        if what == "crash" or (what == "once" and (folder / task).read_text() == "x"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "hang":
            time.sleep(600)
        if what == "full":
            raise OSError(28, "No space left on device")
        if what == "strange":
            raise KeyError("unknown")
        return f"{what} done"

    return work


def die() -> Any:
    os._exit(3)


def outcomes(folder: Path, tasks: list[str], workers: int, limit_s: float = 60) -> dict[str, Any]:
    results = list(run_tasks(tasks, partial(obey, folder), workers, limit_s))
    assert sorted(task for task, _ in results) == sorted(tasks), "every task exactly once"
    return dict(results)


def starts(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in folder.iterdir()}


def test_crashes_and_hangs_cost_nothing_but_themselves(tmp_path: Path) -> None:
    tasks = ["a-1", "crash-1", "a-2", "hang-1", "once-1", "a-3", "a-4"]
    results = outcomes(tmp_path, tasks, workers=2, limit_s=2.0)
    assert [results[f"a-{i}"] for i in (1, 2, 3, 4)] == ["a done"] * 4
    assert results["once-1"] == "once done"
    crash, hang = results["crash-1"], results["hang-1"]
    assert isinstance(crash, GivenUp)
    assert isinstance(hang, GivenUp)
    assert (crash.kind, hang.kind) == ("crash", "timeout")
    assert "ended 2 times (SIGSEGV)" in crash.reason
    assert "more than 2 s 2 times" in hang.reason
    assert starts(tmp_path) == {**dict.fromkeys(tasks, 1), "crash-1": 2, "hang-1": 2, "once-1": 2}


def test_a_task_that_comes_back_goes_to_a_worker_that_has_nothing_to_do(tmp_path: Path) -> None:
    # The second worker is idle long before the first one loses its task.
    results = outcomes(tmp_path, ["hang-1", "a-1"], workers=2, limit_s=1.5)
    assert results["a-1"] == "a done"
    assert results["hang-1"].kind == "timeout"
    assert starts(tmp_path) == {"hang-1": 2, "a-1": 1}


def test_errors_of_the_work_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        outcomes(tmp_path, ["a-1", "full-1", "a-2"], workers=1)
    assert caught.value.errno == 28
    assert "a-2" not in starts(tmp_path)
    with pytest.raises(RuntimeError, match="KeyError: 'unknown'"):
        outcomes(tmp_path, ["strange-1"], workers=1)


def test_processes_that_cannot_start_end_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"did not start.*exit code 3"):
        list(run_tasks(["a"], die, 1, 60))


def test_nothing_to_do_starts_no_process(tmp_path: Path) -> None:
    assert list(run_tasks([], die, 4, 60)) == []


def test_default_workers_fit_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    for num_bytes, wanted in ((2**40, cores), (5 * 2**30, min(2, cores)), (2**27, 1)):
        monkeypatch.setattr("datamodules.prepare.processes._available_bytes", partial(int, num_bytes))
        assert default_workers() == wanted
    monkeypatch.undo()
    assert default_workers() >= 1


def test_children_of_a_killed_builder_end(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from functools import partial\nfrom pathlib import Path\n"
        "from test_prepare_processes import obey\nfrom datamodules.prepare.processes import run_tasks\n"
        "if __name__ == '__main__':\n"
        f"    list(run_tasks(['hang-1'], partial(obey, Path({str(tmp_path)!r})), 1, 600))\n"
    )
    file = tmp_path / "builder.py"
    file.write_text(script)
    builder = subprocess.Popen([sys.executable, str(file)])
    wait_for(lambda: (tmp_path / "hang-1").exists())
    children = Path(f"/proc/{builder.pid}/task/{builder.pid}/children").read_text().split()
    assert children
    builder.kill()
    builder.wait()
    wait_for(lambda: not any(is_running(int(child)) for child in children))


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
