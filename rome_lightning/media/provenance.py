"""Which code made a file."""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rome_lightning

CONFIG_KEY = "rome_config"
"""Of W&B's settings of a run: content of ``config.yaml``."""
FACTS_KEY = "rome_run"
"""Of W&B's settings of a run: dataset hash, seed, commit, number of processes."""


@functools.cache
def code_and_versions() -> dict[str, Any]:
    """Package version, git commit (with ``-dirty``) if run from a clone, and library versions."""
    return {
        "rome_lightning": rome_lightning.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "lightning", "torchmetrics", "mediapipe")},
    }


@functools.cache
def git_commit() -> str | None:
    """Commit of this package's clone, with ``-dirty``; ``None`` if installed, even inside another clone."""
    package = Path(rome_lightning.__file__)

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(package.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    if shutil.which("git") is None or git("ls-files", "--error-unmatch", package.name).returncode:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=12").stdout.strip() or None
