"""What the site has besides its pages: commands, configurations, cards, and equations that need no script."""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from rome_lightning.assets.experiments import experiment_names, first_line
from rome_lightning.cli.main import COMMANDS
from rome_lightning.cli.main import main as rome
from rome_lightning.models.shipped import SHIPPED

ROOT = Path(__file__).parents[1]
_ABLATIONS = "](../experiments/ablations/README.md)"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_USAGE = re.compile(r"usage: rome [\w-]+ \[-h\]\s+(?:\{(\S+)\}|(\w+(?: \| \w+)+)) \.\.\.")
_LISTED = re.compile(r"^  (\w+)  ", re.MULTILINE)
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_LEVELS = re.compile(r"^#", re.MULTILINE)
_FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_DISPLAYED = re.compile(r"(?<=\n)(\$\$.+?\$\$)\n", re.DOTALL)
_BEGINNING_OF_LIST = re.compile(r"^((?!\s|[-*|] |\d+\. ).+)\n(?=(?:[-*]|1\.) )", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the generated pages."""
    for path, content in (
        ("reference/commands.md", _commands()),
        ("reference/configurations.md", _configurations()),
        ("models.md", _models()),
    ):
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page as GitHub shows it.

    Links that lead out of `docs/` in the repository lead to generated pages, or become plain text. Lists and
    equations get the empty lines around them that MkDocs wants.
    """
    text = _OUTSIDE.sub(r"\1", markdown.replace(_ABLATIONS, "](reference/configurations.md)"))
    parts = _FENCED.split(text)
    # Every second part is code.
    parts[::2] = [_BEGINNING_OF_LIST.sub(r"\1\n\n", _DISPLAYED.sub(r"\n\1\n\n", part)) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content: str, **_: Any) -> str:
    """Equations as MathML, which browsers draw by themselves."""
    return _EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    return convert(html.unescape(found[2]).strip(), display="inline" if found[1] == "span" else "block")


def _commands() -> str:
    parts = ["# Commands\n\nWhat `rome COMMAND --help` prints.\n"]
    for name, command in COMMANDS.items():
        parts.append(f"## rome {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n")
        own = _help([name])
        inner = subcommands(name, own)
        shown = {name: own} | {f"{name} {word}": _help([name, word]) for word in inner}
        parts += [f"```text\n$ rome {words} --help\n{text}\n```\n" for words, text in shown.items()]
    return "\n".join(parts)


def subcommands(name: str, text: str) -> list[str]:
    """Words that a command's help names as its sub-commands."""
    if found := _USAGE.search(text):
        return re.split(r",| \| ", found[1] or found[2])
    if "\ncommands:\n" in text:
        return _LISTED.findall(text.split("\ncommands:\n")[1].split("\n\n")[0])
    # Its own options come first, so it has no list.
    return ["sync"] if name == "sweep" else []


def _help(words: list[str]) -> str:
    """What a command prints, as wide as a page and without colours."""
    os.environ |= {"COLUMNS": "82", "NO_COLOR": "1", "TERM": "dumb"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = rome([*words, "--help"])
    if code:
        raise ValueError(f"rome {' '.join(words)} --help ended with exit code {code}")
    # An option without a name for its value has a backspace in its place.
    return _ANSI.sub("", printed.getvalue()).replace(" \b", "").strip()


def _configurations() -> str:
    parts = [
        "# Configurations\n",
        "They travel with the package and are found by name from any folder: `rome fit --config "
        "full/base`, `rome evaluate --protocol demo`, `rome sweep loss_weights`. `rome experiments show "
        "NAME` prints one, `rome experiments copy NAME` makes a copy to change.\n",
    ]
    names = experiment_names()
    for folder in sorted({name.split("/")[0] for name in names}):
        rows = [f"| `{name}` | {first_line(name)} |" for name in names if name.split("/")[0] == folder]
        parts += [f"## {folder}\n", "| name | question |", "|---|---|", *rows, ""]
    text = (ROOT / "experiments" / "ablations" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\[(\w+)\]\(\1\.yaml\)", r"`\1`", text)
    parts.append("## How to read the ablations\n" + text.split("\n", 1)[1])
    return "\n".join(parts)


def _models() -> str:
    """The cards of the shipped models, as `rome models card` prints them, one level deeper."""
    cards = [_LEVELS.sub("##", model.card.read_text(encoding="utf-8")) for model in SHIPPED.values()]
    return "\n".join(["# Shipped models\n", "`rome models card NAME` prints the same.\n", *cards])
