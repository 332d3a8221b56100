"""Bar charts as inline SVG, without any library in the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

_WIDTH, _HEIGHT, _BASE = 300, 96, 18
_BINS = 30


def histogram(
    values: Sequence[float], title: str, low: float | None = None, high: float | None = None
) -> str:
    """How often values occur; a line marks the median.

    Args:
        values: any number; none gives an empty chart.
        title: above the chart, with the unit.
        low: left end of the axis; values below count in the first bar. By default the smallest value.
        high: right end, in the same way; by default the largest value.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if len(array) == 0:
        return _figure(title, "")
    low = float(array.min()) if low is None else low
    high = float(array.max()) if high is None else high
    high = high if high > low else low + 1
    counts, edges = np.histogram(array.clip(low, high), bins=_BINS, range=(low, high))
    step, top = _WIDTH / _BINS, _HEIGHT - _BASE
    marks = []
    for index, count in enumerate(counts):
        height = top * count / counts.max()
        marks.append(
            f'<rect x="{index * step + 0.5:.1f}" y="{top - height:.1f}" width="{step - 1:.1f}" '
            f'height="{height:.1f}"><title>{edges[index]:.3g} to {edges[index + 1]:.3g}: {count}</title>'
            "</rect>"
        )
    median = float(np.median(array))
    place = (min(max(median, low), high) - low) / (high - low) * _WIDTH
    marks.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{top}" class="median"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        marks.append(
            f'<text x="{share * _WIDTH:.0f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">'
            f"{low + share * (high - low):.3g}</text>"
        )
    return _figure(f"{title}, median {median:.3g}", "".join(marks))


def bars(counts: Mapping[str, int]) -> str:
    """A table of counts, each with a bar, largest first."""
    most = max(counts.values(), default=1)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=number>{count}</td>"
        '<td><svg width="200" height="12">'
        f'<rect y="1" width="{200 * count / most:.1f}" height="10"/></svg></td></tr>'
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"<table>{rows}</table>"


def _figure(title: str, content: str) -> str:
    text = html.escape(title)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    picture = f'<svg {size} role="img" aria-label="{text}">{content}</svg>'
    return f"<figure><figcaption>{text}</figcaption>{picture}</figure>"
