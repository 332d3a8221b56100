"""Intervals: coverage in simulated experiments, and properties that hold for any data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rome_lightning.comparison.statistics import (
    Layout,
    driver_spread,
    group_means,
    paired_interval,
    seed_spread,
)

GAIN = 0.3
"""True difference of the simulated configurations."""


def experiment(
    rng: np.random.Generator,
    num_people: int,
    seeds: tuple[int, int] = (1, 1),
    seed_noise: float = 0.0,
    skewed: bool = False,
) -> tuple[np.ndarray, np.ndarray, Layout]:
    """Scores of two configurations on people with 1 to 4 clips of 4 pairs.

    Pairs of a clip and clips of a person share a part of their difference: the correlation that makes
    intervals over pairs too narrow. A seed shifts all scores of its run, and each person's a little more.
    """
    identity = np.repeat(np.arange(num_people), rng.integers(1, 5, num_people))
    clip = np.repeat(np.arange(len(identity)), 4)
    person = identity[clip]
    level = 3 * rng.standard_normal(num_people)[person] + rng.standard_normal(len(identity))[clip]
    spread = rng.exponential(1, num_people) - 1 if skewed else rng.standard_normal(num_people)
    effect = GAIN + 0.5 * spread[person] + 0.5 * rng.standard_normal(len(identity))[clip]

    def run(gain: np.ndarray | float) -> np.ndarray:
        moved = seed_noise * (rng.standard_normal() + 0.7 * rng.standard_normal(num_people)[person])
        return level + gain + moved + rng.standard_normal(len(clip))

    a = np.stack([run(0.0) for _ in range(seeds[0])])
    b = np.stack([run(effect) for _ in range(seeds[1])])
    return a, b, Layout(clip, identity)


def coverage(trials: int, **settings: object) -> float:
    """Share of experiments whose 95 % interval contains the true difference."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(trials):
        a, b, layout = experiment(rng, **settings)
        seeds = None
        if len(a) + len(b) > 2:
            seeds = seed_spread([layout.identity_means(a), layout.identity_means(b)], len(a), len(b))
        interval = paired_interval(a, b, layout, seeds, num_resamples=800, seed=trial)
        hits += interval.low <= GAIN <= interval.high
    return hits / trials


@pytest.mark.parametrize("num_people", [5, 10, 25])
def test_the_interval_covers_the_truth_for_correlated_clips(num_people):
    # 600 experiments have a standard error of 0.9 %: the bounds are more than 3 of them away from 95 %.
    assert 0.92 <= coverage(600, num_people=num_people) <= 0.98


def test_the_interval_covers_the_truth_with_noisy_seeds():
    assert 0.92 <= coverage(600, num_people=20, seeds=(3, 3), seed_noise=0.3) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("num_people", [5, 8, 12, 20, 50])
def test_coverage_without_seeds_in_many_experiments(num_people, skewed):
    assert 0.93 <= coverage(2000, num_people=num_people, skewed=skewed) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 5), (3, 1)])
@pytest.mark.parametrize("num_people", [10, 20, 50])
def test_coverage_with_seeds_in_many_experiments(num_people, seeds):
    """With few seeds, whose spread is uncertain, the interval may be too wide, but never too narrow."""
    limit = 0.97 if sum(seeds) >= 10 or num_people >= 50 else 0.99
    assert 0.93 <= coverage(2000, num_people=num_people, seeds=seeds, seed_noise=0.3) <= limit


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3)])
def test_seeds_of_one_configuration_are_seldom_told_apart(seeds):
    """Without a difference besides the seeds, at most 5 % of the experiments claim one."""
    rng = np.random.default_rng(2)
    claims, alone = 0, 0
    for trial in range(600):
        a, b, layout = experiment(rng, 15, (sum(seeds), 1), seed_noise=0.5)
        a, b = a[: seeds[0]], a[seeds[0] :]
        means = [layout.identity_means(a), layout.identity_means(b)]
        spread = seed_spread(means, *seeds)
        claims += paired_interval(a, b, layout, spread, num_resamples=500, seed=trial).excludes_zero
        alone += paired_interval(a[:1], b[:1], layout, num_resamples=500, seed=trial).excludes_zero
    # 5 % and two standard errors of 600 experiments.
    assert claims / 600 <= 0.05 + 0.018
    # If seeds are ignored, two runs of one configuration usually look different.
    assert alone / 600 > 0.4


def test_two_runs_alone_never_differ_by_more_than_seeds_do():
    """With one run per side of one configuration, their difference is all that is known about the seeds."""
    rng = np.random.default_rng(3)
    for trial in range(50):
        a, _, layout = experiment(rng, 10, (2, 1), seed_noise=1.0)
        spread = seed_spread([layout.identity_means(a)], 1, 1)
        assert not paired_interval(a[:1], a[1:], layout, spread, num_resamples=500, seed=trial).excludes_zero


def test_equal_seeds_give_equal_intervals():
    a, b, layout = experiment(np.random.default_rng(4), 8)
    first = paired_interval(a, b, layout, seed=7)
    assert paired_interval(a, b, layout, seed=7) == first
    other = paired_interval(a, b, layout, seed=8)
    assert other != first
    assert other.low == pytest.approx(first.low, abs=0.05 * (first.high - first.low))


def test_one_clip_each_is_the_t_interval():
    """Without clips within people and without skew, there is a textbook formula."""
    rng = np.random.default_rng(5)
    half = rng.standard_normal(6)
    difference = np.concatenate([half, -half]) + 0.4
    identity = np.arange(12)
    interval = paired_interval(
        np.zeros((1, 12)), difference[None], Layout(identity, identity), num_resamples=200_000
    )
    low, high = stats.t.interval(0.95, 11, difference.mean(), stats.sem(difference))
    # The resampled mean of 12 values is not quite normal.
    assert interval.low == pytest.approx(low, abs=0.03)
    assert interval.high == pytest.approx(high, abs=0.03)


def test_the_difference_is_the_mean_over_people_of_means_over_clips():
    clip, identity = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1])
    values = np.array([[1.0, 2.0, 3.0, 10.0, 20.0]])
    interval = paired_interval(np.zeros((1, 5)), values, Layout(clip, identity))
    assert interval.difference == pytest.approx(((2.0 + 10.0) / 2 + 20.0) / 2)
    weights = Layout(clip, identity).weights()
    assert weights.sum() == pytest.approx(1.0)
    assert float((weights * values).sum()) == pytest.approx(interval.difference)


def test_one_person_gives_no_interval():
    layout = Layout(np.array([0, 1]), np.array([0, 0]))
    interval = paired_interval(np.zeros((1, 2)), np.ones((1, 2)), layout)
    assert interval.difference == 1
    assert np.isnan([interval.low, interval.high]).all()
    assert not interval.excludes_zero


def test_equal_scores_give_an_empty_interval_and_no_claim():
    layout = Layout(np.arange(6), np.repeat(np.arange(3), 2))
    interval = paired_interval(np.ones((1, 6)), np.ones((1, 6)), layout)
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)
    assert not interval.excludes_zero


def test_the_spread_of_seeds_is_that_of_the_runs():
    """Runs that shift as a whole: their spread is the variance of the shifts, without interaction."""
    shift = np.array([0.0, 1.0, -1.0])
    people = np.array([1.0, 5.0, 9.0, 2.0])
    spread = seed_spread([shift[:, None] + people, people[None]], 3, 1)
    assert spread.degrees == 2
    assert spread.mean_square == pytest.approx(shift.var(ddof=1) * (1 / 3 + 1))
    assert spread.interaction == pytest.approx(0, abs=1e-12)
    assert seed_spread([people[None], people[None]], 1, 1).degrees == 0


def crossed(rng: np.random.Generator, num: int, driver_noise: float) -> tuple[np.ndarray, Layout]:
    """Differences for people who are each driven by everyone."""
    identity, driver = (x.ravel() for x in np.meshgrid(np.arange(num), np.arange(num), indexing="ij"))
    noise = rng.standard_normal(num)[identity] + driver_noise * rng.standard_normal(num)[driver]
    return noise + 0.5 * rng.standard_normal(num * num), Layout(identity, np.arange(num), driver)


def test_drivers_that_many_people_share_are_counted():
    rng = np.random.default_rng(6)
    hits, blind = 0, 0
    for trial in range(500):
        difference, layout = crossed(rng, 10, driver_noise=1.0)
        zero = np.zeros((1, len(difference)))
        interval = paired_interval(zero, difference[None], layout, num_resamples=500, seed=trial)
        hits += interval.low <= 0 <= interval.high
        without = Layout(layout.clip, layout.identity)
        interval = paired_interval(zero, difference[None], without, num_resamples=500, seed=trial)
        blind += interval.low <= 0 <= interval.high
    assert 0.92 <= hits / 500 <= 0.99
    assert blind / 500 < 0.9


def test_a_driver_for_each_person_adds_nothing():
    num = np.arange(5)
    layout = Layout(num, num, np.roll(num, 1))
    assert driver_spread(np.random.default_rng(7).standard_normal(5), layout).degrees == 0


def test_group_means_against_a_loop():
    rng = np.random.default_rng(8)
    group = rng.permutation(np.repeat(np.arange(4), [1, 2, 3, 4]))
    values = rng.standard_normal((2, 10))
    expected = [[row[group == g].mean() for g in range(4)] for row in values]
    np.testing.assert_allclose(group_means(values, group), expected)
