"""Trials of a sweep on disk: settings, progress and score."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rome_lightning.comparison.runs import Run, read_curves, read_json
from rome_lightning.media.atomic import write_atomic
from rome_lightning.sweeps.file import EarlyTermination, SweepFile, Value

Status = Literal["running", "finished", "stopped", "failed"]
"""``running`` includes killed trials, which resume from their last checkpoint. ``stopped`` means early
termination; the value counts."""

TRIAL_FILE = "trial.json"
_PEERS_FOR_MEDIAN = 4


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep."""

    folder: Path
    """The run folder."""
    number: int
    """From 1, as its folder is named."""
    settings: dict[str, Value]
    status: Status
    value: float | None = None
    """Best of the metric over the validations; None if there was none."""
    reason: str = ""
    """Why it failed or was stopped."""

    @property
    def is_over(self) -> bool:
        """Whether the trial is over."""
        return self.status != "running"

    def save(self) -> None:
        """Write the state, atomically."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_atomic(self.folder / TRIAL_FILE, json.dumps(content, indent=1) + "\n")


def trial_folder(sweep: Path, number: int) -> Path:
    """Run folder of a trial."""
    return sweep / "trials" / f"{number:04d}"


def load_trials(sweep: Path) -> list[Trial]:
    """All trials of a sweep's folder, by number."""
    return [load_trial(path.parent) for path in sorted(sweep.glob(f"trials/*/{TRIAL_FILE}"))]


def load_trial(folder: Path) -> Trial:
    """Read the state of a trial."""
    return Trial(folder=folder, **read_json(folder / TRIAL_FILE))


def history(folder: Path, metric: str) -> list[float]:
    """Values of the metric, one per validation; a value that is not finite is kept."""
    return [value for _, value in read_curves(folder / "metrics.csv").get(metric, [])]


def best_value(values: Sequence[float], goal: str) -> float | None:
    """The best finite value: what W&B keeps as ``summary: min`` or ``max``."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return min(finite) if goal == "minimize" else max(finite)


def reason_to_stop(
    rule: EarlyTermination, own: Sequence[float], others: Sequence[Sequence[float]], goal: str
) -> str:
    """The reason to stop a trial now; empty if it should continue.

    Args:
        rule: of the sweep.
        own: values of the trial's validations so far.
        others: the same of all other trials.
        goal: ``minimize`` or ``maximize``.
    """
    reached = [bracket for bracket in rule.brackets if bracket <= len(own)]
    if not reached:
        return ""
    place = len(own) if rule.type == "median" else reached[-1]
    peers = [_merit(values[:place], goal) for values in others if len(values) >= place]
    mine = _merit(own[:place], goal)
    if rule.type == "median":
        if len(peers) >= _PEERS_FOR_MEDIAN and mine < sorted(peers)[len(peers) // 2]:
            return f"worse than the median of {len(peers)} trials after {place} validations"
        return ""
    better = sum(peer > mine for peer in peers)
    allowed = max(1, math.floor((len(peers) + 1) / rule.eta))
    if len(peers) + 1 >= rule.eta and better >= allowed:
        return f"{better} of {len(peers)} other trials were better after {place} validations"
    return ""


def _merit(values: Sequence[float], goal: str) -> float:
    """The best value so far, signed so that larger is better; a run without finite values is the worst."""
    best = best_value(values, goal)
    if best is None:
        return -math.inf
    return -best if goal == "minimize" else best


def ranked(trials: Sequence[Trial], sweep: SweepFile) -> list[Trial]:
    """Trials with a value, best first, then the others."""
    sign = 1 if sweep.goal == "minimize" else -1
    return sorted(trials, key=lambda t: (t.value is None, sign * (t.value or 0.0), t.number))


def as_runs(trials: Sequence[Trial]) -> list[Run]:
    """The run folders of trials."""
    return [Run(trial.folder) for trial in trials]
