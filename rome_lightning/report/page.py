"""One page that shows a run: tables, videos, pictures and what made them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.escaping import printable


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""

    def as_text(self) -> str:
        """The table for a terminal, columns aligned."""
        lines = [[printable(cell) for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


@dataclass(frozen=True)
class Media:
    """A picture, video or other file beside the page."""

    file: str
    """Path relative to the page."""
    caption: str


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    videos: list[Media] = field(default_factory=list)
    pictures: list[Media] = field(default_factory=list)
    files: list[Media] = field(default_factory=list)


def write_report(
    path: Path, title: str, lead: str, sections: list[Section], provenance: dict[str, Any]
) -> None:
    """Write a self-explaining HTML page; media stay beside it.

    Args:
        path: of the page.
        title: heading.
        lead: one sentence under it.
        sections: in order.
        provenance: what made the results; shown as JSON.
    """
    environment = Environment(
        loader=PackageLoader("rome_lightning.report"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        title=title, lead=lead, sections=sections, provenance=json.dumps(provenance, indent=2, default=str)
    )
    write_atomic(path, page)
