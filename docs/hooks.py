"""Pages of the site that are made from what they describe: commands and configurations."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from rome_lightning.assets.experiments import experiment_names, first_line
from rome_lightning.cli.main import COMMANDS
from rome_lightning.cli.main import main as rome

ROOT = Path(__file__).parents[1]
SUBCOMMANDS = {
    "shards": ("verify", "stats", "import"),
    "distill": ("basis", "all", "transfer", "join"),
    "avatar": ("create", "animate", "edit", "export", "view"),
    "assets": ("list", "fetch"),
    "experiments": ("list", "show", "copy"),
    "sweep": ("", "sync"),
}
_ABLATIONS = "](../experiments/ablations/README.md)"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the generated pages."""
    for path, content in (
        ("reference/commands.md", _commands()),
        ("reference/configurations.md", _configurations()),
    ):
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of `docs/` in the repository lead to generated pages, or become plain text."""
    return _OUTSIDE.sub(r"\1", markdown.replace(_ABLATIONS, "](reference/configurations.md)"))


def _commands() -> str:
    parts = ["# Commands\n\nWhat `rome COMMAND --help` prints.\n"]
    for name, command in COMMANDS.items():
        parts.append(f"## rome {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n")
        for inner in SUBCOMMANDS.get(name, ("",)):
            words = [name, *filter(None, [inner])]
            parts.append(f"```text\n$ rome {' '.join(words)} --help\n{_help(words)}\n```\n")
    return "\n".join(parts)


def _help(words: list[str]) -> str:
    """What a command prints, 100 columns wide and without colours."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = rome([*words, "--help"])
    if code:
        raise ValueError(f"rome {' '.join(words)} --help ended with exit code {code}")
    return _ANSI.sub("", printed.getvalue()).strip()


def _configurations() -> str:
    parts = [
        "# Configurations\n",
        "They travel with the package and are found by name from any folder: `rome fit --config "
        "full/base`, `rome evaluate --protocol demo`, `rome sweep loss_weights`. `rome experiments show "
        "NAME` prints one, `rome experiments copy NAME` makes a copy to change.\n",
    ]
    names = experiment_names()
    for folder in sorted({name.split("/")[0] for name in names}):
        rows = [f"| `{name}` | {first_line(name)} |" for name in names if name.startswith(f"{folder}/")]
        parts += [f"## {folder}\n", "| name | question |", "|---|---|", *rows, ""]
    text = (ROOT / "experiments" / "ablations" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\[(\w+)\]\(\1\.yaml\)", r"`\1`", text)
    parts.append("## How to read the ablations\n" + text.split("\n", 1)[1])
    return "\n".join(parts)
