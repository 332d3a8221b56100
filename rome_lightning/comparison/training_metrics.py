"""Comparison of the validation metrics of training: a first look without verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rome_lightning.comparison.runs import Configuration, Run
from rome_lightning.report.page import Table


def training_table(configurations: Sequence[Configuration], metrics: Sequence[str] = ()) -> Table:
    """Validation metrics at each run's best checkpoint, mean and spread over the seeds.

    Args:
        configurations: from ``pool_seeds``.
        metrics: names or beginnings of them; all ``val/`` metrics if empty.

    Raises:
        ValueError: no run has such a metric.
    """
    values = {run.path: _metrics(run) for c in configurations for run in c.runs}
    known = sorted({name for of_run in values.values() for name in of_run})
    wanted = tuple(metrics) or ("val/",)
    names = [name for name in known if name.startswith(wanted)]
    if not names:
        raise ValueError(f"no run has metrics {', '.join(wanted)}; there are {', '.join(known) or 'none'}")
    rows = []
    for name in names:
        for index, configuration in enumerate(configurations):
            numbers = [values[run.path].get(name, math.nan) for run in configuration.runs]
            spread = f"{np.std(numbers, ddof=1):.2g}" if len(numbers) > 1 else ""
            rows.append(
                [
                    name if index == 0 else "",
                    configuration.name,
                    str(len(numbers)),
                    f"{np.mean(numbers):.5g}",
                    spread,
                ]
            )
    about = (
        "Validation metrics of training at the best checkpoint, which they selected: no pairs, hence no "
        "intervals and no verdicts. Evaluate the runs with `rome evaluate` to compare them."
    )
    return Table(["metric", "configuration", "seeds", "mean", "sd over seeds"], rows, about)


def _metrics(run: Run) -> dict[str, float]:
    """``summary.json``'s, or for a run that has none yet, the last of ``metrics.csv``."""
    stored = run.summary.get("metrics")
    if stored:
        return {name: float(value) for name, value in stored.items()}
    return {name: points[-1][1] for name, points in run.learning_curves().items()}
