"""Comparison of configurations, pair by pair, on the same data under the same protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from rome_lightning.comparison.judging import Cell, CompareOptions, Result, Verdict
from rome_lightning.comparison.runs import UNIT_COLUMNS, Configuration, Run, RunScores, config_difference
from rome_lightning.comparison.statistics import Interval

SAME_FOR_ALL = {
    "protocol_hash": "the protocol",
    "dataset_hash": "the dataset",
    "pairs_hash": "the pair list",
    "networks": "the networks of the metrics",
    "head": "the head model",
}
"""Entries of an evaluation's summary that must match."""


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison and their basis."""

    protocol: str
    configurations: list[Configuration]
    baseline: Configuration
    results: list[Result]
    units: pd.DataFrame
    """The pairs, with ``UNIT_COLUMNS``, in the order of ``values``."""
    values: dict[str, Float[np.ndarray, "r p"]]
    """Per ``task/metric``: a row per run, in the order of the configurations; NaN where there is no value."""
    differences: dict[str, list[Any]]
    """Settings in which the configurations differ."""
    options: CompareOptions
    num_dropped: int
    """Pairs that some run lacks, dropped on request."""
    ceilings: dict[str, tuple[float | None, float | None]]
    """Ceiling and floor of the protocol per ``task/metric``."""
    num_missing: dict[str, int]
    """Per configuration, predictions that were absent or unreadable when its runs were evaluated."""
    bins: dict[str, list[float]]
    """Tasks that are bins of the rotation between source and driver, with their angles, degrees."""
    rotation_deg: Float[np.ndarray, " p"] | None
    """Of each pair, if the evaluations know it."""

    def metric(self, name: str) -> list[Result]:
        """Results of one ``task/metric``, in the order of the configurations."""
        return [result for result in self.results if result.name == name]

    @property
    def names(self) -> list[str]:
        """Every ``task/metric``, in order."""
        return list(dict.fromkeys(result.name for result in self.results))

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of the rows of ``values``."""
        return [run for configuration in self.configurations for run in configuration.runs]

    def configuration_values(self, name: str) -> Float[np.ndarray, "c p"]:
        """Values per configuration and pair, means over the seeds."""
        start, rows = 0, []
        for configuration in self.configurations:
            rows.append(self.values[name][start : start + len(configuration.runs)].mean(0))
            start += len(configuration.runs)
        return np.stack(rows)

    def as_frame(self) -> pd.DataFrame:
        """A row per metric and configuration, numbers unrounded."""
        rows = []
        for r in self.results:
            interval = r.interval or Interval(np.nan, np.nan, np.nan, False)
            harsh = r.penalised_interval or Interval(np.nan, np.nan, np.nan, False)
            rows.append(
                {
                    **{"task": r.task, "metric": r.metric, "configuration": r.configuration},
                    **{"higher_is_better": r.higher_is_better, "mean": r.mean, "penalised": r.penalised},
                    **{"difference": interval.difference, "low": interval.low, "high": interval.high},
                    "penalised_difference": harsh.difference,
                    **{"penalised_low": harsh.low, "penalised_high": harsh.high},
                    **{"seeds_in_interval": interval.seeds_known, "verdict": r.verdict, "seeds": r.num_seeds},
                    **{"identities": r.num_identities, "clips": r.num_clips, "pairs": r.num_pairs},
                    "failed": r.num_failed,
                }
            )
        return pd.DataFrame(rows)


def common_protocol(runs: Sequence[Run]) -> str:
    """The one protocol under which all runs were evaluated.

    Raises:
        ValueError: there is none, or there are several.
    """
    shared = set.intersection(*(set(run.protocols()) for run in runs))
    if len(shared) == 1:
        return shared.pop()
    if shared:
        raise ValueError(f"all runs were evaluated under {', '.join(sorted(shared))}; choose with --protocol")
    found = "; ".join(f"{run.path}: {', '.join(run.protocols()) or 'none'}" for run in runs)
    raise ValueError(
        f"no protocol under which all runs were evaluated ({found}); run `rome evaluate` on each, or "
        "compare the validation metrics of the training with --protocol training"
    )


def compare(
    configurations: Sequence[Configuration],
    protocol: str,
    baseline: Configuration,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare configurations with a baseline, metric by metric.

    Args:
        configurations: from ``pool_seeds``; at least two.
        protocol: name of the folder under ``evaluation/``.
        baseline: one of the configurations.
        options: which metrics, and how.

    Raises:
        FileNotFoundError: a run was not evaluated under the protocol.
        ValueError: the runs cannot be compared, with the reason.
    """
    options = options or CompareOptions()
    if len(configurations) < 2:
        raise ValueError(
            "there is only one configuration; runs that differ only in their seed are pooled, so nothing "
            "is left to compare (--separate-seeds keeps them separate)"
        )
    runs = [run for configuration in configurations for run in configuration.runs]
    evaluations = [run.evaluation(protocol) for run in runs]
    refuse_other_conditions(runs, evaluations)
    units, num_dropped = _align(runs, evaluations, options.common_pairs)
    tables = [evaluation.pairs.set_index(list(UNIT_COLUMNS)).loc[units] for evaluation in evaluations]
    frame = units.to_frame(index=False)
    facts = evaluations[0].summary.get("metrics", {})
    sizes = [len(configuration.runs) for configuration in configurations]
    base = list(configurations).index(baseline)
    alike = [run.configuration for run in runs]
    results: list[Result] = []
    values: dict[str, Float[np.ndarray, "r p"]] = {}
    ceilings: dict[str, tuple[float | None, float | None]] = {}
    for task, metric in _chosen(evaluations, options.metrics):
        name = f"{task}/{metric}"
        fact = facts.get(task, {}).get(metric, {})
        if "higher_is_better" not in fact:
            raise ValueError(
                f"{evaluations[0].folder}/summary.json does not state whether high values of {name} are good"
            )
        ceilings[name] = (fact.get("ceiling"), fact.get("floor"))
        rows = (frame["task"] == task).to_numpy()
        if metric not in evaluations[0].metrics or not any(t[metric][rows].notna().any() for t in tables):
            results += _set_scores(task, metric, configurations, evaluations, base, fact)
            continue
        scores = np.stack([table[metric].to_numpy(float) for table in tables])
        values[name] = np.where(rows, scores, np.nan)
        unseen = np.any([table["undetected_prediction"].to_numpy(bool) for table in tables], axis=0)
        blind = np.any([table["undetected_target"].to_numpy(bool) for table in tables], axis=0)
        cell = Cell(
            task,
            metric,
            fact,
            scores[:, rows],
            (unseen & ~blind)[rows],
            frame[rows],
            sizes,
            base,
            options,
            alike,
        )
        results += cell.results([configuration.name for configuration in configurations])
    return Comparison(
        protocol,
        list(configurations),
        baseline,
        results,
        frame,
        values,
        config_difference(configurations),
        options,
        num_dropped,
        ceilings,
        _missing(configurations, evaluations),
        dict(evaluations[0].summary.get("bins", {})),
        tables[0]["rotation_deg"].to_numpy(float) if "rotation_deg" in tables[0] else None,
    )


def _missing(configurations: Sequence[Configuration], evaluations: Sequence[RunScores]) -> dict[str, int]:
    counts = iter(
        sum(task.get("num_missing", 0) for task in evaluation.summary.get("failures", {}).values())
        for evaluation in evaluations
    )
    return {
        configuration.name: sum(next(counts) for _ in configuration.runs) for configuration in configurations
    }


def refuse_other_conditions(runs: Sequence[Run], evaluations: Sequence[RunScores]) -> None:
    """Make sure that the numbers mean the same.

    Raises:
        ValueError: two runs were evaluated under different conditions.
    """
    for key, what in SAME_FOR_ALL.items():
        first = _condition(runs[0], evaluations[0], key)
        for run, evaluation in zip(runs, evaluations, strict=True):
            other = _condition(run, evaluation, key)
            if other != first and not (key == "head" and None in (other, first)):
                raise ValueError(
                    f"{runs[0].path} and {run.path} cannot be compared: {what} differs "
                    f"({_short(first)} against {_short(other)}); evaluate both with the same"
                )


def _condition(run: Run, evaluation: RunScores, key: str) -> Any:
    if key == "head":
        return evaluation.summary.get("head", run.config.get("model.init_args.avatar.head"))
    return evaluation.summary.get(key)


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _align(
    runs: Sequence[Run], evaluations: Sequence[RunScores], common_pairs: bool
) -> tuple[pd.MultiIndex, int]:
    """Pairs of all runs, sorted, and how many pairs some run lacks."""
    indices = [pd.MultiIndex.from_frame(e.pairs[list(UNIT_COLUMNS)]) for e in evaluations]
    everything, shared = indices[0], indices[0]
    for index in indices[1:]:
        everything, shared = everything.union(index), shared.intersection(index)
    dropped = len(everything) - len(shared)
    if dropped and not common_pairs:
        lacking = ", ".join(
            f"{run.path} lacks {len(everything) - len(index)}"
            for run, index in zip(runs, indices, strict=True)
            if len(index) < len(everything)
        )
        raise ValueError(
            f"the runs were not scored on the same {len(everything)} pairs: {lacking}; complete the "
            "evaluation, or compare only the common pairs with --common-pairs true"
        )
    if not len(shared):
        raise ValueError("no pair was scored in all runs")
    return shared.sort_values(), dropped


def _chosen(evaluations: Sequence[RunScores], wanted: Sequence[str]) -> list[tuple[str, str]]:
    """(task, metric) pairs of the first run that were asked for, in its order."""
    facts: dict[str, dict[str, Any]] = evaluations[0].summary.get("metrics", {})
    known = [(task, metric) for task, metrics in facts.items() for metric in metrics]
    chosen = []
    for name in wanted:
        found = [item for item in known if _matches(name, f"{item[0]}/{item[1]}") or _matches(name, item[1])]
        if not found:
            listed = ", ".join(f"{task}/{metric}" for task, metric in known)
            raise ValueError(f"no metric {name!r} was evaluated; there are {listed}")
        chosen += found
    return list(dict.fromkeys(chosen)) if wanted else known


def _matches(wanted: str, name: str) -> bool:
    """Whether a name equals or begins with the requested one: ``lpips`` matches ``lpips_alex/full``."""
    return name.startswith(wanted) and name[len(wanted) :][:1] in ("", "/", "_")


def _set_scores(
    task: str,
    metric: str,
    configurations: Sequence[Configuration],
    evaluations: Sequence[RunScores],
    base: int,
    fact: dict[str, Any],
) -> list[Result]:
    """Scores without a value per pair, such as distances of whole sets: means without intervals."""
    entries = [e.summary.get("metrics", {}).get(task, {}).get(metric, {}) for e in evaluations]
    results, start = [], 0
    for index, configuration in enumerate(configurations):
        size = len(configuration.runs)
        own = entries[start : start + size]
        start += size
        mean, penalised = (_mean([entry.get(key) for entry in own]) for key in ("mean", "penalised"))
        verdict: Verdict = "baseline" if index == base else "no pairs"
        num = int(fact.get("num") or 0)
        results.append(
            Result(
                *(task, metric, configuration.name, fact["higher_is_better"], mean, penalised, verdict),
                *(None, None, size, 0, 0, num, 0),
            )
        )
    return results


def _mean(values: Sequence[float | None]) -> float:
    """The mean, or NaN if any value is missing."""
    return float("nan") if None in values else float(np.mean(np.asarray(values, float)))
