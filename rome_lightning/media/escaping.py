"""Text from files and servers, such as names of runs and videos, made harmless where it is shown or used."""

from __future__ import annotations

import logging
import re
import unicodedata
import warnings
from typing import Any

_LONGEST_NAME = 100
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What spreadsheets take for the beginning of a formula."""
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of characters that move the cursor, change the direction of text or show nothing."""
_MARKDOWN = re.compile(r"([\\`*|]|(?<!\w)_|_(?!\w)|!(?=\[)|\](?=\s*[(\[:]))")


def printable(text: object) -> str:
    """One line of visible characters for a terminal: all others are spelt by their number, as in Python."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _INVISIBLE else sign
        for sign in str(text)
    )


def csv_cell(value: Any) -> Any:
    """A value that no spreadsheet runs as a formula: text that looks like one gets an apostrophe first."""
    if not isinstance(value, str) or not value.lstrip(" ").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def markdown_cell(text: str) -> str:
    """Text of a table's cell that Markdown shows as it is: no HTML, link, picture, code or second row."""
    visible = printable(" ".join(text.split()))
    escaped = _MARKDOWN.sub(r"\\\1", visible)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def file_name(text: str) -> str:
    """A name for a file or folder inside of the one that it is put into: letters, digits, dots and dashes.

    Names that differ only in other characters become the same; the caller adds an id where that matters.
    """
    name = re.sub(r"[^\w.\-]+", "_", unicodedata.normalize("NFC", text))[:_LONGEST_NAME].lstrip(".-")
    return name or "unnamed"


def make_messages_printable() -> None:
    """Show warnings and log messages of this process with ``printable``."""
    show = warnings.formatwarning

    def formatted(message: Any, category: type[Warning], *place: Any, **more: Any) -> str:
        lines: Any = "\n".join(map(printable, str(message).splitlines()))
        return show(lines, category, *place, **more)

    warnings.formatwarning = formatted
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        return printable(super().formatMessage(record))
