"""One metric of all runs: means, intervals and verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from rome_lightning.comparison.statistics import Interval, Layout, Spread, paired_interval, seed_spread

Verdict = Literal["better", "worse", "undecided", "one seed", "baseline", "no pairs"]
"""``one seed``: these checkpoints differ on other people too, but the effect of the seed is unknown, so the
configurations may not differ. ``no pairs``: a score of the whole set, no interval."""


@dataclass(frozen=True)
class CompareOptions:
    """How runs are compared."""

    metrics: list[str] = field(default_factory=list)
    """Metrics to show, as ``psnr/full``, ``self/psnr/full`` or the beginning of either; all if empty."""
    scope: Literal["configurations", "checkpoints"] = "configurations"
    """What a verdict is about. ``configurations``: training again, with other seeds; needs several seeds.
    ``checkpoints``: these very weights on other people; seeds do not matter."""
    common_pairs: bool = False
    """Compare the pairs that all runs have, instead of refusing runs that lack some."""
    confidence: float = 0.95
    """Of the intervals."""
    resamples: int = 10_000
    """Bootstrap resamples."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must be in [0.5, 1), got {self.confidence}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")


@dataclass(frozen=True)
class Result:
    """One metric of one configuration."""

    task: str
    metric: str
    configuration: str
    higher_is_better: bool
    mean: float
    """Over identities, of the pairs in which every run has a value."""
    penalised: float
    """The same with the worst value where a prediction has none; NaN if the metric has no worst value."""
    verdict: Verdict
    interval: Interval | None
    """Of the difference to the baseline, without the pairs that lack a value."""
    penalised_interval: Interval | None
    """The same with the worst value in their place; None if no pair lacks one."""
    num_seeds: int
    num_identities: int
    num_clips: int
    num_pairs: int
    """Pairs in which every run has a value."""
    num_failed: int
    """Pairs that could be scored but lack a value in some run of this configuration."""

    @property
    def name(self) -> str:
        """Task and metric."""
        return f"{self.task}/{self.metric}"


@dataclass(frozen=True)
class Cell:
    """One metric of all runs: aligned values and everything needed to judge them."""

    task: str
    metric: str
    fact: dict[str, Any]
    values: Float[np.ndarray, "r p"]
    unseen: Bool[np.ndarray, " p"]
    """Pairs in which some prediction shows no face, though the ground truth does."""
    units: pd.DataFrame
    sizes: list[int]
    """Runs per configuration."""
    base: int
    options: CompareOptions
    alike: list[str]
    """Per run, what it shares with other seeds of its configuration, pooled or not."""

    def results(self, names: list[str]) -> list[Result]:
        """Results of the configurations, in their order."""
        there = np.isfinite(self.values)
        defined = there.all(0)
        # If any run has a value, the ground truth allows one. If none has, only a prediction without a face
        # is known to be at fault.
        possible = there.any(0) | self.unseen
        filled, worst = self.values, self._worst()
        if worst is not None:
            filled = np.where(there, self.values, worst)
        skipping = _Judge(self, self._per_configuration(self.values), defined)
        harsh = _Judge(
            self, self._per_configuration(filled), (defined | possible) if worst is not None else defined
        )
        failed = self._per_configuration(~there & possible)
        return [
            self._result(index, name, skipping, harsh, int(failed[index].any(0).sum()))
            for index, name in enumerate(names)
        ]

    def _per_configuration(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.split(rows, np.cumsum(self.sizes)[:-1])

    def _worst(self) -> float | None:
        """Penalty for a prediction without a value; None if the metric has none.

        An evaluation that does not state it gets the worst value of all runs.
        """
        if self.fact.get("worst") is not None:
            return float(self.fact["worst"])
        if self.fact.get("penalised") is None:
            return None
        return float((np.nanmin if self.fact["higher_is_better"] else np.nanmax)(self.values))

    def _result(self, index: int, name: str, skipping: _Judge, harsh: _Judge, failed: int) -> Result:
        interval = None if index == self.base else skipping.interval(index)
        penalised = harsh.interval(index) if interval and harsh.num_pairs > skipping.num_pairs else None
        return Result(
            task=self.task,
            metric=self.metric,
            configuration=name,
            higher_is_better=bool(self.fact["higher_is_better"]),
            mean=skipping.mean(index),
            penalised=harsh.mean(index) if self._worst() is not None else float("nan"),
            verdict=self._verdict(interval, penalised),
            interval=interval,
            penalised_interval=penalised,
            num_seeds=self.sizes[index],
            num_identities=skipping.num_identities,
            num_clips=skipping.num_clips,
            num_pairs=skipping.num_pairs,
            num_failed=failed,
        )

    def _verdict(self, interval: Interval | None, penalised: Interval | None) -> Verdict:
        """The verdict; skipping and penalising failures must agree."""
        if interval is None:
            return "baseline"
        both = [interval, *([penalised] if penalised else [])]
        if not all(each.excludes_zero for each in both) or len({each.low > 0 for each in both}) > 1:
            return "undecided"
        if self.options.scope == "configurations" and not interval.seeds_known:
            return "one seed"
        return "better" if (interval.low > 0) == bool(self.fact["higher_is_better"]) else "worse"


class _Judge:
    """Means and intervals of one metric over a choice of pairs."""

    def __init__(self, cell: Cell, groups: list[np.ndarray], chosen: Bool[np.ndarray, " p"]) -> None:
        self.options, self.base, self.sizes, self.alike = cell.options, cell.base, cell.sizes, cell.alike
        self.num_pairs = int(chosen.sum())
        self.groups = [group[:, chosen] for group in groups]
        self.layout = layout_of(cell.units[chosen]) if self.num_pairs else None
        self.num_identities = self.layout.num_identities if self.layout else 0
        self.num_clips = self.layout.num_clips if self.layout else 0

    def mean(self, index: int) -> float:
        if self.layout is None:
            return float("nan")
        return float(self.layout.identity_means(self.groups[index]).mean())

    def interval(self, index: int) -> Interval:
        if self.layout is None:
            return Interval(np.nan, np.nan, np.nan, False)
        a, b = self.groups[self.base], self.groups[index]
        return paired_interval(
            a,
            b,
            self.layout,
            self._seeds(index) if self.options.scope == "configurations" else None,
            confidence=self.options.confidence,
            num_resamples=self.options.resamples,
            seed=self.options.seed,
        )

    def _seeds(self, index: int) -> Spread:
        assert self.layout is not None
        means = self.layout.identity_means(np.concatenate(self.groups))
        members = pd.Series(range(len(means))).groupby(self.alike, sort=False)
        runs = [means[rows] for rows in members.groups.values()]
        return seed_spread(runs, self.sizes[self.base], self.sizes[index])


def layout_of(units: pd.DataFrame) -> Layout:
    """Clips, identities and drivers of pairs.

    Args:
        units: a row per pair with ``UNIT_COLUMNS``.
    """
    identity_of_pair = pd.factorize(units["identity"])[0]
    clip = pd.factorize(units["identity"].astype(str) + "\0" + units["clip"].astype(str))[0]
    identity = np.zeros(clip.max() + 1, dtype=np.int64)
    identity[clip] = identity_of_pair
    drivers = units["driver_identity"].fillna("").astype(str)
    driver = pd.factorize(drivers)[0] if (drivers != "").all() else None
    return Layout(clip, identity, driver)
