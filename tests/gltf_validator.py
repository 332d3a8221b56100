"""Khronos' glTF validator, if Node and its package are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then((report) => console.log(JSON.stringify(report.issues)));
"""


def node_folder(package: str) -> str:
    """Folder from which node finds a package: $GLTF_VALIDATOR, or node's own paths; skips without one."""
    folder = os.environ.get("GLTF_VALIDATOR")
    if node := shutil.which("node"):
        probe = subprocess.run(
            [node, "-e", f"require.resolve('{package}')"], cwd=folder, capture_output=True, check=False
        )
        if probe.returncode == 0:
            return folder or "."
    return pytest.skip(f"needs node and `npm install {package}`; GLTF_VALIDATOR names the folder it is in")


def khronos_issues(path: Path) -> list[str]:
    """Errors and warnings of the validator; skips the test without it."""
    folder = node_folder("gltf-validator")
    result = subprocess.run(
        ["node", "-e", _VALIDATE, str(path)], cwd=folder, capture_output=True, text=True, check=True
    )
    issues = json.loads(result.stdout)
    return [str(entry) for entry in issues["messages"] if entry["severity"] < 2]
