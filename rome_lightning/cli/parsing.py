"""One dialect of options: full names with dashes or underscores; unknown ones get a suggestion."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

_UNRECOGNIZED = "unrecognized arguments: "
# Dotted names are keys of a configuration and keep their underscores.
_UNDERSCORED = re.compile(r"--[a-z0-9]+(?:_[a-z0-9]+)+(?![\w.])")


def dashed(text: str) -> str:
    """Spell the options in a text with dashes, except dotted ones, which are configuration keys."""
    return _UNDERSCORED.sub(lambda found: found[0].replace("_", "-"), text)


def as_declared(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Spell options as the parser declares them, so that dashes and underscores are equivalent."""
    declared = {option.replace("_", "-"): option for option in long_options(parser)}
    words = []
    for word in argv:
        name, joined, value = word.partition("=")
        if name.startswith("--"):
            name = f"--{declared.get(name[2:].replace('_', '-'), name[2:])}"
        words.append(name + joined + value)
    return words


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message about an unknown name; empty if nothing is near.

    Args:
        name: as it was typed.
        known: names; of dotted ones, the last part alone may be near.
    """
    known = sorted(set(known), key=lambda option: (option.count("."), option))
    wanted = name.lstrip("-").split("=")[0]
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.7)
    if not close:
        begins = [option for option in known if option.startswith(wanted)]
        close = begins[:1]
    if not close and "." not in wanted:
        leaves = {option.rpartition(".")[2]: option for option in reversed(known)}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(wanted, leaves, n=1, cutoff=0.7)]
    return f" (did you mean {close[0]}?)" if close else ""


class StrictParser(argparse.ArgumentParser):
    """A parser that refuses abbreviations, suggests corrections, and uses the dialect of this module."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse options with dashes or underscores."""
        return super().parse_known_args(None if args is None else as_declared(args, self), namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after a suggestion."""
        super().error(with_hint(message, self))


def with_hint(message: str, parser: argparse.ArgumentParser, others: Iterable[str] = ()) -> str:
    """Add a suggestion to an error about unknown options.

    Args:
        message: of the error.
        parser: whose options are known.
        others: further known options, without their dashes.
    """
    if not message.startswith(_UNRECOGNIZED) or "did you mean" in message:
        # jsonargparse calls this twice.
        return message
    word = message.removeprefix(_UNRECOGNIZED).split()[0]
    hint = dashed(nearest(word, [*long_options(parser), *others]).replace("mean ", "mean --"))
    return message + (hint if word.startswith("--") else hint.replace("mean --", "mean "))


def long_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Long options of a parser and its sub-commands, without their dashes."""
    for action in parser._actions:
        yield from (option[2:] for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from long_options(inner)
