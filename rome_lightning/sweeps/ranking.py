"""The best trials of a sweep, and the settings that mattered."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rome_lightning.comparison.figures import curve_figure
from rome_lightning.comparison.runs import Configuration, Run
from rome_lightning.media.escaping import csv_cell
from rome_lightning.media.image import write_figure
from rome_lightning.report.page import Media, Section, Table, write_report
from rome_lightning.sweeps.engine import SweepFolder
from rome_lightning.sweeps.file import Parameter, SweepFile, Value
from rome_lightning.sweeps.methods import distributions, import_optuna, study_of
from rome_lightning.sweeps.trials import Trial, ranked

_ENOUGH = 8
"""Fewest trials for which importances are computed."""
_MOST_CURVES = 8
_BINS = 4


@dataclass(frozen=True)
class Ranking:
    """A sweep's trials, best first, and the effect of its settings."""

    sweep: SweepFile
    count: int
    """Planned number of trials."""
    trials: list[Trial]
    importance: dict[str, float]
    """Share of the variance of the metric that each setting explains; empty if it could not be computed."""
    why_no_importance: str

    @property
    def best(self) -> Trial | None:
        """The best trial; None if none has a value."""
        return self.trials[0] if self.trials and self.trials[0].value is not None else None

    @property
    def scored(self) -> list[Trial]:
        """Trials with a value, the best first."""
        return [trial for trial in self.trials if trial.value is not None]


def rank_sweep(folder: Path) -> Ranking:
    """Rank the trials in a folder of ``rome sweep``.

    Raises:
        FileNotFoundError: it is not such a folder, or has no trials yet.
    """
    opened = SweepFolder.open(folder)
    trials = opened.trials()
    if not trials:
        raise FileNotFoundError(f"{folder} has no trials yet")
    importance, why = _importance(opened.sweep, trials)
    return Ranking(opened.sweep, opened.count, ranked(trials, opened.sweep), importance, why)


def _importance(sweep: SweepFile, trials: Sequence[Trial]) -> tuple[dict[str, float], str]:
    """Functional ANOVA over a random forest of the trials.

    Source: Hutter, Hoos & Leyton-Brown 2014, An efficient approach for assessing hyperparameter importance,
    as in optuna.
    """
    over = [trial for trial in trials if trial.is_over and trial.value is not None]
    if len(over) < _ENOUGH:
        return {}, f"{len(over)} trials are too few to rank the importance of settings; {_ENOUGH} are needed"
    if len({trial.value for trial in over}) < 2:
        return {}, "all trials have the same value"
    try:
        optuna = import_optuna("the importance of settings")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        names = list(distributions(sweep, optuna))
        found = optuna.importance.get_param_importances(
            study_of(sweep, over), evaluator=evaluator, params=names
        )
    except ImportError:
        return {}, "the importance needs optuna and scikit-learn: pip install 'rome-lightning[sweep]'"
    return {name: float(value) for name, value in found.items()}, ""


def trials_table(ranking: Ranking) -> Table:
    """Every trial with its settings, best first."""
    names = list(ranking.sweep.free)
    rows = []
    for place, trial in enumerate(ranking.trials):
        value = "" if trial.value is None else f"{trial.value:.5g}"
        settings = [_shown(trial.settings[name]) for name in names]
        place_shown = str(place + 1) if trial.value is not None else ""
        rows.append([place_shown, trial.folder.name, value, *settings, trial.status, trial.reason])
    columns = ["rank", "trial", ranking.sweep.metric, *map(short_name, names), "state", "why"]
    return Table(columns, rows, _caption(ranking))


def _caption(ranking: Ranking) -> str:
    states = Counter(trial.status for trial in ranking.trials)
    goal = "lowest" if ranking.sweep.goal == "minimize" else "highest"
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    missing = ranking.count - len(ranking.trials)
    parts = [f"{len(ranking.trials)} of {ranking.count} trials: {counts}.", f"Best is {goal}."]
    if missing:
        parts.append(f"{missing} are still missing.")
    if len(ranking.scored) > 1:
        parts.append(
            f"The first of {len(ranking.scored)} trials with one seed each owes part of its lead to luck: "
            "train it again with other seeds and compare with `rome compare` before trusting the order."
        )
    return " ".join(parts)


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short_name(option: str) -> str:
    """An option's name without the prefix that all options share."""
    return option.replace("init_args.", "").removeprefix("model.")


def settings_table(ranking: Ranking) -> Table:
    """The effect of each setting: its importance and the mean of the metric by value."""
    rows = []
    order = sorted(ranking.sweep.free, key=lambda name: -ranking.importance.get(name, 0.0))
    for name in order:
        share = ranking.importance.get(name)
        head = [short_name(name), "" if share is None else f"{share:.2f}"]
        for level, mean, num in level_means(ranking.sweep.free[name], name, ranking.scored):
            rows.append([*head, level, f"{mean:.4g}", str(num)])
            head = ["", ""]
    about = ranking.why_no_importance or (
        "Importance: share of the variance between trials that the setting explains alone or with others "
        "(fANOVA); the shares of all settings add up to 1."
    )
    return Table(["setting", "importance", "value", f"mean {ranking.sweep.metric}", "trials"], rows, about)


def level_means(parameter: Parameter, name: str, trials: Sequence[Trial]) -> list[tuple[str, float, int]]:
    """Mean of the trials at each value of a setting; ranges are split into bins of equal counts."""
    scored = [(trial.settings[name], float(trial.value)) for trial in trials if trial.value is not None]
    if parameter.values:
        groups = [
            (_shown(value), [v for setting, v in scored if setting == value]) for value in parameter.values
        ]
    else:
        ordered = sorted((float(setting or 0), v) for setting, v in scored)
        parts = np.array_split(np.arange(len(ordered)), min(_BINS, len(ordered) or 1))
        groups = [
            (
                f"{_shown(ordered[part[0]][0])} to {_shown(ordered[part[-1]][0])}",
                [ordered[i][1] for i in part],
            )
            for part in parts
            if len(part)
        ]
    return [(level, float(np.mean(values)), len(values)) for level, values in groups if values]


def ranking_text(ranking: Ranking, style: str) -> str:
    """The ranking as text.

    Args:
        ranking: of a sweep.
        style: ``table`` for terminals, ``md`` or ``csv``.

    Raises:
        ValueError: the style is for comparisons only.
    """
    tables = [trials_table(ranking), settings_table(ranking)]
    if style == "csv":
        import pandas as pd

        names = [short_name(name) for name in ranking.sweep.free]
        rows = [
            [t.folder.name, t.value, *(t.settings[name] for name in ranking.sweep.free), t.status, t.reason]
            for t in ranking.trials
        ]
        frame = pd.DataFrame(rows, columns=["trial", ranking.sweep.metric, *names, "state", "why"])
        text: str = frame.map(csv_cell).rename(columns=csv_cell).to_csv(index=False)
        return text
    if style == "latex":
        raise ValueError("a sweep's ranking can be table, md, csv or html; latex is for comparisons of runs")
    if style == "md":
        return "\n\n".join(table.as_markdown() for table in tables) + "\n"
    return "\n\n".join(f"{table.as_text()}\n{table.caption}" for table in tables) + "\n"


def write_ranking(path: Path, ranking: Ranking, provenance: dict[str, Any] | None = None) -> None:
    """Write the ranking as a page, with figures in a folder beside it."""
    media = path.with_name(f"{path.stem}_files")
    media.mkdir(parents=True, exist_ok=True)
    pictures = []
    if ranking.scored and ranking.sweep.free:
        write_figure(media / "settings.svg", settings_figure(ranking))
        about = "Each trial's value over each setting; the best in red, those stopped early hollow."
        pictures.append(Media(f"{media.name}/settings.svg", about))
    top = [Configuration(trial.folder.name, (Run(trial.folder),)) for trial in ranking.scored[:_MOST_CURVES]]
    figure = curve_figure(top)
    curves = []
    if figure is not None:
        write_figure(media / "curves.svg", figure)
        curves.append(Media(f"{media.name}/curves.svg", f"The {len(top)} best trials."))
    sections = [
        Section("Trials", tables=[trials_table(ranking)]),
        Section("Settings", tables=[settings_table(ranking)], pictures=pictures),
        Section("Learning curves", pictures=curves),
    ]
    best = ranking.best
    lead = (
        f"Best {ranking.sweep.metric}: {best.value:.5g} (trial {best.folder.name})."
        if best
        else "No trial has a value."
    )
    told = {"sweep": str(ranking.sweep.path), "command": list(ranking.sweep.command), **(provenance or {})}
    write_report(path, f"Sweep {ranking.sweep.name}", lead, sections, told)


def settings_figure(ranking: Ranking) -> Figure:
    """The metric over each setting, a panel each."""
    names = list(ranking.sweep.free)
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * max(2, columns), 2.8 * rows), layout="constrained")
    for place, name in enumerate(names):
        parameter = ranking.sweep.free[name]
        axes = figure.add_subplot(rows, columns, place + 1)
        for trial in reversed(ranking.scored):
            setting = trial.settings[name]
            x = parameter.values.index(setting) if parameter.values else float(setting or 0)
            colour = "tab:red" if trial is ranking.best else "tab:blue"
            face = colour if trial.status == "finished" else "none"
            axes.plot(x, float(trial.value or 0), "o", markeredgecolor=colour, markerfacecolor=face)
        if parameter.values:
            axes.set_xticks(range(len(parameter.values)), [_shown(value) for value in parameter.values])
            axes.set_xlim(-0.5, len(parameter.values) - 0.5)
        elif parameter.is_log:
            axes.set_xscale("log")
        axes.set_title(short_name(name), fontsize=9)
        axes.set_ylabel(ranking.sweep.metric, fontsize=8)
        axes.tick_params(labelsize=8)
    return figure
