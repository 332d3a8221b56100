"""The notebook for Colab begins with pip, and each of its commands is one that `rome` takes."""

from __future__ import annotations

import re
import shlex

import nbformat
import pytest
from tiny_run import ROOT

from rome_lightning.cli import avatar, demo, doctor

NOTEBOOK = ROOT / "notebooks" / "colab.ipynb"
PARSERS = {"avatar": avatar.build_parser, "demo": demo.build_parser, "doctor": doctor._parser}


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
        ["demo", "-o"],
        ["avatar", "create"],
        ["avatar", "animate"],
        ["avatar", "export"],
    ]
