"""One page that shows a run: tables, videos, pictures and what made them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.escaping import markdown_cell, printable
from rome_lightning.media.image import write_png
from rome_lightning.media.video import read_video


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

    def as_markdown(self) -> str:
        """A pipe table with its caption."""
        lines = [[markdown_cell(cell) for cell in line] for line in (self.columns, *self.rows)]
        head, *body = (f"| {' | '.join(line)} |" for line in lines)
        rule = "|" + "|".join(["---", *["---:"] * (len(self.columns) - 1)]) + "|"
        return "\n".join([head, rule, *body, *(["", markdown_cell(self.caption)] if self.caption else [])])


@dataclass(frozen=True)
class Media:
    """A picture, video or other file beside the page."""

    file: str
    """Path relative to the page."""
    caption: str
    poster: str = ""
    """Picture that stands for a video until it is played, relative to the page."""


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
    sections = [replace(section, videos=_with_posters(path.parent, section.videos)) for section in sections]
    environment = Environment(
        loader=PackageLoader("rome_lightning.report"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        title=title, lead=lead, sections=sections, provenance=json.dumps(provenance, indent=2, default=str)
    )
    write_atomic(path, page)


def _with_posters(folder: Path, videos: list[Media]) -> list[Media]:
    """Videos, each with its first frame beside it."""
    shown = []
    for video in videos:
        poster = Path(video.file).with_suffix(".png")
        write_png(folder / poster, read_video(folder / video.file, max_frames=1).frames[0])
        shown.append(replace(video, poster=poster.as_posix()))
    return shown
