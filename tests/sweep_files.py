"""Sweep files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

COMMAND = ["${env}", "rome", "fit", "--config", "base.yaml", "${args}"]


def write_sweep(path: Path, parameters: dict[str, Any], method: str = "grid", **more: Any) -> Path:
    content = {
        "method": method,
        "metric": {"name": "val/lpips", "goal": "minimize"},
        "parameters": parameters,
        "command": COMMAND,
        **more,
    }
    path.write_text(yaml.safe_dump(content))
    return path
