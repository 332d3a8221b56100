"""The page of a comparison: tables, intervals, the same frames of all runs side by side, learning curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rome_lightning.comparison.comparing import Comparison
from rome_lightning.comparison.figures import curve_figure, interval_figure
from rome_lightning.comparison.tables import bins_table, differences_table, digits_of, results_table
from rome_lightning.media.image import write_figure, write_png
from rome_lightning.report.page import Media, Section, Table, write_report

Truth = Callable[[dict[str, str]], UInt8[np.ndarray, "h w 3"]]
"""The real frame of a pair, by its unit columns."""

_CASES = 4
"""Rows of pictures per kind of case."""
_ROWS = 10
"""Rows of the table of largest differences."""


def write_page(
    path: Path, comparison: Comparison, provenance: dict[str, Any], truth: Truth | None = None
) -> None:
    """Write the page; pictures go to a folder beside it, named after it.

    Args:
        path: of the page, ``.html``.
        comparison: of runs.
        provenance: what made it.
        truth: returns real frames, shown before the runs' own.
    """
    media = path.with_name(f"{path.stem}_files")
    media.mkdir(parents=True, exist_ok=True)
    names = [configuration.name for configuration in comparison.configurations]
    sections = [
        Section(
            "Results",
            "A difference is the configuration's mean minus the baseline's, over the same pairs. The "
            "interval contains the true difference in 95 of 100 such experiments; docs/comparison.md "
            "states the assumptions.",
            tables=[results_table(comparison)],
            pictures=_intervals(comparison, media),
        ),
        *_bins(comparison, media, truth),
        Section("Settings", tables=[differences_table(comparison)]),
        *(_task_section(comparison, task, media, truth) for task in _tasks(comparison)),
        *_curves(comparison, media),
    ]
    runs = {c.name: [str(run.path) for run in c.runs] for c in comparison.configurations}
    write_report(
        path,
        f"{' / '.join(names)}",
        f"Comparison under protocol {comparison.protocol}, baseline {comparison.baseline.name}.",
        sections,
        {"runs": runs, "options": vars(comparison.options), **provenance},
    )


def _bins(comparison: Comparison, media: Path, truth: Truth | None) -> list[Section]:
    """Scores by rotation and the largest turn of each person, where the protocol has bins."""
    if not comparison.bins:
        return []
    rows = [
        side_by_side(comparison, Case(index, "largest turn"), truth) for index in largest_turns(comparison)
    ]
    pictures = []
    if rows:
        write_png(media / "largest_turns.png", np.concatenate(rows))
        names = [c.name for c in comparison.configurations]
        columns = " | ".join([*(["real frame"] if truth else []), *names])
        pictures = [Media(f"{media.name}/largest_turns.png", f"Largest turn of each person: {columns}")]
    return [Section("By rotation", tables=[bins_table(comparison)], pictures=pictures)]


def largest_turns(comparison: Comparison) -> list[int]:
    """Row of each person's pair with the largest rotation for which all configurations have an image."""
    if comparison.rotation_deg is None:
        return []
    best: dict[str, int] = {}
    for index, (task, person) in enumerate(comparison.units[["task", "identity"]].itertuples(index=False)):
        if task not in comparison.bins or not _picture_paths(comparison, index):
            continue
        if person not in best or comparison.rotation_deg[index] > comparison.rotation_deg[best[person]]:
            best[person] = index
    return [best[person] for person in sorted(best)]


def _tasks(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(r.task for r in comparison.results if r.name in comparison.values))


def _intervals(comparison: Comparison, media: Path) -> list[Media]:
    if not any(result.interval for result in comparison.results):
        return []
    write_figure(media / "intervals.svg", interval_figure(comparison))
    about = "Differences to the baseline (line) with their intervals; grey is undecided."
    return [Media(f"{media.name}/intervals.svg", about)]


def _curves(comparison: Comparison, media: Path) -> list[Section]:
    figure = curve_figure(comparison.configurations)
    if figure is None:
        return []
    write_figure(media / "curves.svg", figure)
    about = "From each run's metrics.csv; one line per seed."
    return [Section("Learning curves", pictures=[Media(f"{media.name}/curves.svg", about)])]


@dataclass(frozen=True)
class Case:
    """A pair worth showing."""

    index: int
    """Row of the comparison's units."""
    why: str


def _task_section(comparison: Comparison, task: str, media: Path, truth: Truth | None) -> Section:
    """Pairs of a task: those that differ most, the baseline's worst and best, with pictures where kept."""
    name = next(n for n in comparison.names if n.startswith(f"{task}/") and n in comparison.values)
    values = comparison.configuration_values(name)
    pictures = []
    for number, case in enumerate(find_cases(comparison, name)):
        file = media / f"{task}-{number}.png"
        write_png(file, side_by_side(comparison, case, truth))
        pictures.append(
            Media(f"{media.name}/{file.name}", case_caption(comparison, case, name, truth is not None))
        )
    text = (
        f"Ordered by {name}. "
        + "The same frame of every configuration (its first seed), from the images that the evaluations kept."
        if pictures
        else f"Ordered by {name}. The evaluations kept no image that all runs have."
    )
    return Section(f"Cases: {task}", text, tables=[_largest(comparison, values, name)], pictures=pictures)


def _spread(comparison: Comparison, values: Float[np.ndarray, "c p"]) -> Float[np.ndarray, " p"]:
    """Largest difference to the baseline of each pair; NaN where a configuration has no value."""
    base = comparison.configurations.index(comparison.baseline)
    spread: Float[np.ndarray, " p"] = np.abs(values - values[base]).max(0)
    return spread


def find_cases(comparison: Comparison, name: str) -> list[Case]:
    """Pairs that differ most, and the baseline's worst and best, of which all have a picture; each once.

    Args:
        comparison: of runs.
        name: ``task/metric`` that orders the pairs.
    """
    values = comparison.configuration_values(name)
    spread = _spread(comparison, values)
    pictured = [i for i in np.flatnonzero(np.isfinite(spread)) if _picture_paths(comparison, int(i))]
    base = values[comparison.configurations.index(comparison.baseline)]
    good = base if comparison.metric(name)[0].higher_is_better else -base
    orders = {
        "differs most": -spread,
        "worst of the baseline": good,
        "best of the baseline": -good,
    }
    cases: list[Case] = []
    for why, key in orders.items():
        taken = {case.index for case in cases}
        ordered = sorted((i for i in pictured if i not in taken), key=lambda i: key[i])
        cases += [Case(int(i), why) for i in ordered[:_CASES]]
    return cases


def _unit(comparison: Comparison, index: int) -> dict[str, str]:
    return {str(key): str(value) for key, value in comparison.units.iloc[index].items()}


def _picture_paths(comparison: Comparison, index: int) -> list[Path]:
    """The pair's picture of each configuration's first run; empty if one has none."""
    unit = _unit(comparison, index)
    inner = Path(unit["task"], unit["clip"], f"{unit['source']}__{unit['frame']}.png")
    paths = [
        configuration.runs[0].path / "evaluation" / comparison.protocol / "frames" / inner
        for configuration in comparison.configurations
    ]
    return paths if all(path.is_file() for path in paths) else []


def side_by_side(
    comparison: Comparison, case: Case, truth: Truth | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The pair's picture of every configuration's first run, in a row, of one height.

    Args:
        comparison: of runs.
        case: from ``find_cases``.
        truth: returns real frames, shown first.
    """
    index = case.index
    paths = _picture_paths(comparison, index)
    images = [Image.open(path).convert("RGB") for path in paths]
    if truth is not None:
        images.insert(0, Image.fromarray(truth(_unit(comparison, index))))
    height = max(image.height for image in images)
    sized = [image.resize((round(image.width * height / image.height), height)) for image in images]
    return np.concatenate([np.asarray(image) for image in sized], axis=1)


def case_caption(comparison: Comparison, case: Case, name: str, with_truth: bool = False) -> str:
    """What ``side_by_side`` shows, with each configuration's score.

    Args:
        comparison: of runs.
        case: from ``find_cases``.
        name: ``task/metric`` of the scores.
        with_truth: whether a real frame stands first.
    """
    unit = _unit(comparison, case.index)
    digits = digits_of(comparison.metric(name))
    values = comparison.configuration_values(name)[:, case.index]
    columns = [
        f"{configuration.name} {value:.{digits}f}"
        for configuration, value in zip(comparison.configurations, values, strict=True)
    ]
    left = ["real frame"] if with_truth else []
    where = f"{unit['identity']}, {unit['clip']} {unit['source']} to {unit['frame']}"
    return f"{case.why} ({where}), left to right: {' | '.join([*left, *columns])}"


def _largest(comparison: Comparison, values: Float[np.ndarray, "c p"], name: str) -> Table:
    """Pairs in which a configuration is farthest from the baseline."""
    spread = _spread(comparison, values)
    digits = digits_of(comparison.metric(name))
    order = [int(i) for i in np.argsort(-np.nan_to_num(spread, nan=-1.0)) if np.isfinite(spread[i])][:_ROWS]
    rows = []
    for index in order:
        unit = _unit(comparison, index)
        rows.append(
            [
                *(unit[column] for column in ("clip", "identity", "source", "frame")),
                *(f"{value:.{digits}f}" for value in values[:, index]),
            ]
        )
    columns = ["clip", "person", "source", "frame", *(c.name for c in comparison.configurations)]
    return Table(columns, rows, f"The {len(rows)} pairs that differ most from the baseline, {name}.")
