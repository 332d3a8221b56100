"""Parsers of commands whose options may come from files.

Like the other commands, they refuse abbreviated options, which would be recorded under a name that nobody
looks for and could mean another option after an update.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
from jsonargparse import ActionConfigFile, set_parsing_settings

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.parsing import as_declared, dashed, long_options, nearest, with_hint

_NOT_ACCEPTED = re.compile(r"does not accept option '([^']+)'|Option '([^']+)' is not accepted")


class NamedConfigFile(ActionConfigFile):
    """``--config``: a path, or the name of a shipped configuration such as ``full/base``."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the named file, or the YAML given in its place."""
        is_text = any(sign in str(values) for sign in "{:\n")
        super().__call__(parser, cfg, values if is_text else str(_found(values)), option_string)


def _found(name: str) -> Path:
    try:
        return find_experiment(name)
    except FileNotFoundError as error:
        raise TypeError(str(error)) from error


class HintingParser(jsonargparse.ArgumentParser):
    """jsonargparse's parser without abbreviations and with hints, for options and for keys of files."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Parse options with dashes or underscores."""
        return super().parse_args(None if args is None else as_declared(args, self), *more, **options)

    def format_help(self, *args: Any, **options: Any) -> str:
        """The help, with dashes in options that are not configuration keys."""
        return dashed(str(super().format_help(*args, **options)))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a usage error (exit code 2) with a suggestion."""
        super().error(with_hint(message, self, self.nested_options()), ex)

    def nested_options(self) -> list[str]:
        """Further options to suggest, which depend on the value of another one."""
        return []

    def validate(self, *args: Any, **options: Any) -> None:
        """Refuse keys that do not exist, with a suggestion."""
        try:
            super().validate(*args, **options)
        except KeyError as error:
            found = _NOT_ACCEPTED.search(str(error))
            if found is None or "did you mean" in str(error):
                raise
            known = list(long_options(self))
            group = re.search(r"Group '([^']+)'", str(error))
            prefix = f"{group[1]}." if group else ""
            siblings = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
            hint = nearest(found[1] or found[2], siblings)
            raise type(error)(f"{error}{hint}") from error


def config_parser(prog: str, description: str) -> HintingParser:
    """A parser with ``--config``, for a command whose options may come from a YAML file."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = HintingParser(prog=prog, exit_on_error=False, description=description)
    parser.add_argument(
        "--config",
        action=NamedConfigFile,
        help="YAML file with any of these options, or the name of a shipped one (`rome experiments list`).",
    )
    return parser
