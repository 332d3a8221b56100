"""Which code made a file."""

from __future__ import annotations

import functools
import platform
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
    root = Path(rome_lightning.__file__).parent.parent
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "rome_lightning": rome_lightning.__version__,
        "git_commit": described.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "lightning", "torchmetrics", "mediapipe")},
    }
