"""Figures of comparisons, for pages and notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from rome_lightning.comparison.comparing import Comparison
from rome_lightning.comparison.runs import Configuration

_COLOURS = {"better": "tab:green", "worse": "tab:red"}
_MOST_CURVES = 12


def interval_figure(comparison: Comparison) -> Figure:
    """Differences to the baseline with their intervals, a panel per metric.

    Green and red are significant; grey is undecided. The vertical line is the baseline.
    """
    names = [n for n in comparison.names if any(r.interval for r in comparison.metric(n))]
    if not names:
        raise ValueError("no metric of this comparison has values per pair, so there are no intervals")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    others = len(comparison.configurations) - 1
    figure = Figure(figsize=(4.2 * max(2, columns), rows * (1.1 + 0.4 * others)), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        results = [r for r in comparison.metric(name) if r.interval]
        for height, result in enumerate(reversed(results)):
            interval = result.interval
            assert interval is not None
            colour = _COLOURS.get(result.verdict, "grey")
            axes.plot([interval.low, interval.high], [height, height], color=colour, linewidth=2.5)
            axes.plot(interval.difference, height, "o", color=colour)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(results)), [r.configuration for r in reversed(results)])
        axes.set_ylim(-0.6, len(results) - 0.4)
        arrow = "higher" if results[0].higher_is_better else "lower"
        axes.set_title(f"{name} ({arrow} is better)", fontsize=9)
        axes.tick_params(labelsize=8)
    return figure


def curve_figure(
    configurations: Sequence[Configuration], series: Sequence[str] | None = None
) -> Figure | None:
    """Learning curves: a panel per series, a colour per configuration, a line per seed.

    Args:
        configurations: to draw.
        series: columns of ``metrics.csv``; by default the validation's and the total loss.

    Returns:
        None if no run has any of the series.
    """
    curves = {run.path: run.learning_curves() for c in configurations for run in c.runs}
    known = sorted({key for of_run in curves.values() for key in of_run})
    chosen = [key for key in known if key in series] if series else _default_series(known)
    if not chosen:
        return None
    columns = min(3, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(4.2 * max(2, columns), 2.8 * rows), layout="constrained")
    for place, key in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        for index, configuration in enumerate(configurations):
            for number, run in enumerate(configuration.runs):
                points = np.array(curves[run.path].get(key, []), dtype=float).reshape(-1, 2)
                label = configuration.name if number == 0 else None
                marker = "o" if len(points) == 1 else None
                axes.plot(*points.T, color=f"C{index}", linewidth=1.2, marker=marker, label=label)
        axes.set_title(key, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("step", fontsize=8)
    figure.axes[0].legend(fontsize=7)
    return figure


def _default_series(known: Sequence[str]) -> list[str]:
    validation = [key for key in known if key.startswith("val/")]
    return [*validation, *(key for key in known if key == "train/loss")][:_MOST_CURVES]
