"""How scores change with the rotation between source and driver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rome_lightning.evaluation.evaluator import Evaluation
from rome_lightning.evaluation.pairs import PairItem
from rome_lightning.evaluation.results import Rows
from rome_lightning.report.page import Table

Number = Callable[[str, float | None], str]


def bins_table(summary: dict[str, Any], number: Number) -> Table:
    """Metric by bin: mean over people with its 95 % interval; the mean of the bins' means stands last.

    Args:
        summary: as ``write_summary`` returns it.
        number: writes a value of a named metric.
    """
    bins = summary["bins"]
    cells = {task: summary["metrics"][task] for task in bins}
    names = list(dict.fromkeys(name for of_task in cells.values() for name in of_task))
    rows = []
    for name in names:
        found = [cells[task].get(name, {}) for task in bins]
        means = [cell.get("mean") for cell in found]
        row = [name, *(_cell(name, cell, number) for cell in found)]
        known = [mean for mean in means if mean is not None]
        row.append(number(name, math.fsum(known) / len(known) if len(known) == len(means) else None))
        counts = [f"{c.get('num_people', 0)}/{c.get('num_clips', 0)}/{c.get('num', 0)}" for c in found]
        rows.append([*row, ", ".join(counts)])
    columns = [
        "metric",
        *(bin_name(angles) for angles in bins.values()),
        "mean of bins",
        "people/clips/pairs",
    ]
    return Table(
        columns, rows, "Means over people with 95 % intervals; a bin that lacks a value has no mean of bins."
    )


def bin_name(angles: list[float]) -> str:
    """The bin's angles for people."""
    return f"{angles[0]:g}-{angles[1]:g} deg"


def _cell(name: str, cell: dict[str, Any], number: Number) -> str:
    interval = cell.get("interval")
    text = number(name, cell.get("mean"))
    return f"{text} [{number(name, interval[0])}, {number(name, interval[1])}]" if interval else text


def largest_turns(evaluation: Evaluation, rows: dict[str, Rows]) -> list[PairItem]:
    """Of each person the pair of all bins in which the heads are turned most from each other."""
    best: dict[str, tuple[float, PairItem]] = {}
    for task in evaluation.protocol.bins:
        for pair in rows[task].pairs if task in rows else []:
            angle = evaluation.rotation(pair)
            if pair.identity not in best or angle > best[pair.identity][0]:
                best[pair.identity] = angle, pair
    return [best[person][1] for person in sorted(best)]
