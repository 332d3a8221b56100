"""A new environment with the wheel, an empty home and an empty folder, without access to the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from installed_wheel import build_wheel, install_wheel

from rome_lightning.assets import cache_folder, resolve

Rome = Callable[..., str]
_NOT_FOR_USERS = (
    r"\x1b",  # control codes, where the output is no terminal
    r"💡|[Tt]ip:|litmodels|LitLogger",  # adverts of libraries
    r"TPU available|`weights_only`|across ranks",  # what Lightning says to programmers
    r"Traceback|\w+Warning:",
    r"(?m)^[WIE]\d{4} |absl::|TensorFlow Lite",  # logs of libraries
)
"""Patterns that must not appear in anything a user reads."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``rome`` and ``python`` of a new environment."""
    return install_wheel(build_wheel(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("venv"))


@pytest.fixture(scope="session")
def environment(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a new user who shares the fetched assets."""
    home = tmp_path_factory.mktemp("home")
    return {
        "HOME": str(home),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "ROME_CACHE": str(cache_folder()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "COLUMNS": "120",
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initially empty folder shared by all walks."""
    return tmp_path_factory.mktemp("walk")


@pytest.fixture(scope="session")
def rome(environment: dict[str, str], folder: Path) -> Rome:
    """Run ``rome`` as typed; returns its output."""

    def run(line: str, timeout_s: float = 3000) -> str:
        command = ["bash", "-c", line]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        # `pytest -s` shows the walk as the walker sees it.
        shown = f"$ {line}\n{done.stdout}{done.stderr}"
        print(shown)
        assert done.returncode == 0, shown
        found = [pattern for pattern in _NOT_FOR_USERS if re.search(pattern, done.stdout + done.stderr)]
        assert not found, f"{found} in\n{shown}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def clips(folder: Path) -> Path:
    """Six clips of six people, copied into the folder of the walk."""
    target = folder / "clips"
    target.mkdir()
    names = ("franck", "cap12", "cap13", "vitallens_1", "vitallens_2", "single_face")
    try:
        for name in names:
            shutil.copy(resolve(f"clip_{name}"), target)
    except OSError as error:
        pytest.skip(f"needs the clips of the demo: {error}")
    assert len(list(target.iterdir())) == len(names), sys.platform
    return target
