"""Options in full only, and unknown names answered with the nearest known one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

_UNRECOGNIZED = "unrecognized arguments: "


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant; empty if nothing is near."""
    known = sorted(set(known))
    wanted = name.lstrip("-").split("=")[0]
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.7)
    if not close:
        begins = [option for option in known if option.startswith(wanted)]
        close = begins[:1]
    return f" (did you mean {close[0]}?)" if close else ""


class StrictParser(argparse.ArgumentParser):
    """A plain parser, and its sub-commands, without abbreviations and with hints."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, after a hint at what may have been meant."""
        super().error(with_hint(message, self))


def with_hint(message: str, parser: argparse.ArgumentParser) -> str:
    """An error about unknown options with the option that may have been meant."""
    if not message.startswith(_UNRECOGNIZED) or "did you mean" in message:
        # jsonargparse comes by here twice.
        return message
    word = message.removeprefix(_UNRECOGNIZED).split()[0]
    hint = nearest(word, long_options(parser))
    return message + (hint.replace("mean ", "mean --") if word.startswith("--") else hint)


def long_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Long options of a parser and its sub-commands, without their dashes."""
    for action in parser._actions:
        yield from (option[2:] for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from long_options(inner)
