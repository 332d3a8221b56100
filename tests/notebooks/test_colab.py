"""The notebook for Colab starts with pip, `rome` accepts each of its commands, and it runs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from tiny_run import ROOT, need

from rome_lightning.cli import avatar, doctor

NOTEBOOK = ROOT / "notebooks" / "colab.ipynb"
PARSERS = {"avatar": avatar.build_parser, "doctor": doctor._parser}


def _code() -> list[str]:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    return [cell.source for cell in cells]


COMMANDS = re.findall(r"^!rome (.*)$", "\n".join(_code()), re.MULTILINE)


def test_it_begins_with_pip():
    assert "%pip install --quiet rome-lightning" in _code()[0].splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_taken(command):
    name, *arguments = shlex.split(command)
    PARSERS[name]().parse_args(arguments)


def test_it_walks_from_model_to_export():
    assert [command.split()[:2] for command in COMMANDS] == [
        ["doctor"],
        ["avatar", "create"],
        ["avatar", "animate"],
        ["avatar", "export"],
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Everything except the installation, with a few frames."""
    need("face_landmarker", "selfie_multiclass", "modnet", "clip_cap13")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    # Kernels communicate over a socket file, whose path must be short.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("%pip", "# %pip").replace("--max-frames 50", "--max-frames 4")
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "rome: error" not in printed
    assert "me.mp4: 4 frames" in printed
    assert (tmp_path / "me" / "avatar.glb").read_bytes()[:4] == b"glTF"
