"""The frame plan, and the samplers that divide it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.plan import ClipTable, EvaluationPlan, PlanClip, PlanGroup, TrainingPlan
from datamodules.sampler import EvaluationSampler, TrainingSampler
from datamodules.strategies import PairChoice, yaw_deg

CLIPS = tuple(PlanClip(shard=i // 3, frames=tuple(range(2, 12))) for i in range(10))


def test_pure_in_seed_epoch_and_position() -> None:
    first = TrainingPlan(CLIPS, seed=3, pairs_per_epoch=20, num_driving=2)
    stream = [first.pair(e, p) for e in range(3) for p in range(20)]
    # A second object, queried in reverse order, shares no history with the first.
    second = TrainingPlan(CLIPS, seed=3, pairs_per_epoch=20, num_driving=2)
    assert [second.pair(e, p) for e in reversed(range(3)) for p in reversed(range(20))][::-1] == stream
    assert [TrainingPlan(CLIPS, 4, 20, 2).pair(0, p) for p in range(20)] != stream[:20]
    assert len({(p.clip, p.source, p.drivers) for p in stream}) > 50


def test_every_clip_equally_often_across_epochs_of_odd_length() -> None:
    plan = TrainingPlan(CLIPS, seed=0, pairs_per_epoch=7)
    counts = Counter(plan.pair(e, p).clip for e in range(10) for p in range(7))
    assert set(counts.values()) == {7}


def test_all_frames_are_used_and_drivers_differ_from_the_source() -> None:
    plan = TrainingPlan(CLIPS, seed=0, pairs_per_epoch=1000, num_driving=3)
    pairs = [plan.pair(0, p) for p in range(1000)]
    assert all(len({p.source, *p.drivers}) == 4 for p in pairs)
    sources = Counter(p.source for p in pairs)
    # 100 expected each; five standard deviations of a binomial are 47.
    assert set(sources) == set(range(2, 12))
    assert all(abs(count - 100) < 47 for count in sources.values())
    assert plan.pair(0, 5, attempt=1) != plan.pair(0, 5)
    assert plan.pair(0, 5, attempt=1).clip == plan.pair(0, 5).clip


def test_short_clips_repeat_drivers_but_not_the_source() -> None:
    plan = TrainingPlan((PlanClip(0, (4, 9)),), seed=0, pairs_per_epoch=10, num_driving=4)
    for position in range(10):
        pair = plan.pair(0, position)
        assert set(pair.drivers) == {4, 9} - {pair.source}
    with pytest.raises(ValueError, match="no usable frame"):
        TrainingPlan((PlanClip(0, ()),), seed=0, pairs_per_epoch=10)


def test_windows_keep_shards_together() -> None:
    clips = tuple(PlanClip(shard=i // 4, frames=(0, 1)) for i in range(32))
    plan = TrainingPlan(clips, seed=1, pairs_per_epoch=32, shards_per_window=2)
    order = [clips[plan.pair(0, p).clip].shard for p in range(32)]
    for start in range(0, 32, 8):
        assert len(set(order[start : start + 8])) == 2


@pytest.mark.parametrize(("world", "batch"), [(1, 6), (2, 3), (3, 2)])
def test_ranks_divide_one_stream(world: int, batch: int) -> None:
    samplers = [TrainingSampler(20, batch, world, rank) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(2)
    parts = [list(sampler) for sampler in samplers]
    assert all(len(part) == len(s) == 3 * batch for part, s in zip(parts, samplers, strict=True))
    for step in range(3):
        rows = [p for part in parts for p in part[step * batch : (step + 1) * batch]]
        assert rows == [(2, 6 * step + i) for i in range(6)]


@pytest.mark.parametrize(("world", "batch"), [(1, 4), (2, 2), (1, 2), (4, 1)])
def test_a_stream_resumes_at_a_position_on_any_number_of_ranks(world: int, batch: int) -> None:
    parts = [list(TrainingSampler(20, batch, world, rank, epoch=3, position=8)) for rank in range(world)]
    rows = [
        p for step in range(12 // (world * batch)) for part in parts for p in part[step * batch :][:batch]
    ]
    assert rows == [(3, i) for i in range(8, 20)]
    sampler = TrainingSampler(20, batch, world, 0, epoch=3, position=8)
    sampler.set_epoch(4)
    assert next(iter(sampler)) == (4, 0)


def test_evaluation_sees_every_pair_once() -> None:
    seen = [p for rank in range(3) for p in EvaluationSampler(10, 3, rank)]
    assert sorted(seen) == [(0, i) for i in range(10)]
    assert len(EvaluationSampler(10, 3, 0)) == 4


def test_evaluation_pairs() -> None:
    clips = [PlanClip(0, tuple(range(1, 12))), PlanClip(0, (3,)), PlanClip(1, (0, 1))]
    pairs = EvaluationPlan(clips, None, pairs_per_clip=3)
    assert [(p.clip, p.source, p.drivers) for p in pairs] == [
        (0, 1, (2,)),
        (0, 1, (6,)),
        (0, 1, (11,)),
        (2, 0, (1,)),
    ]


def test_holdout() -> None:
    def split(count: int, ratio: float) -> list[tuple[int, ...]]:
        tables = ClipTable.of([PlanClip(0, tuple(range(count)))]).held_out(ratio)
        return [table.frames_of(0) for table in tables]

    assert split(10, 0.2) == [tuple(range(8)), (8, 9)]
    assert split(10, 0.0) == [tuple(range(10)), ()]
    assert split(3, 0.9) == [(0, 1), (2,)]
    assert split(1, 0.9) == [(0,), ()]


def test_weighted_groups_get_their_shares_and_visit_their_clips_equally() -> None:
    clips = CLIPS + tuple(PlanClip(shard=10, frames=(0, 1, 2)) for _ in range(6))
    groups = (PlanGroup(10, 3.0), PlanGroup(6, 1.0))
    plan = TrainingPlan(clips, seed=0, pairs_per_epoch=1024, groups=groups)
    stream = [plan.pair(0, p).clip for p in range(2 * 1024)]
    counts = Counter(stream)
    assert sum(counts[clip] for clip in range(10)) == 3 * 512
    for members in (range(10), range(10, 16)):
        assert max(counts[clip] for clip in members) - min(counts[clip] for clip in members) <= 1
    # Mixed throughout, not in sequence; 24 of 32 expected, five standard deviations are 12.
    assert all(sum(c < 10 for c in stream[i : i + 32]) >= 12 for i in range(0, 2048, 32))
    again = TrainingPlan(clips, seed=0, pairs_per_epoch=1024, groups=groups)
    assert [again.pair(1, p).clip for p in reversed(range(1024))] == stream[:1023:-1]


def test_pairs_per_clip_come_one_after_the_other() -> None:
    plan = TrainingPlan(CLIPS, seed=0, pairs_per_epoch=30, pairs_per_clip=3)
    pairs = [plan.pair(0, p) for p in range(30)]
    assert all(len({p.clip for p in pairs[i : i + 3]}) == 1 for i in range(0, 30, 3))
    assert len({p.clip for p in pairs}) == 10
    assert len({(p.source, p.drivers) for p in pairs}) > 20


def _tracking(yaw: np.ndarray) -> dict[str, np.ndarray]:
    pose = np.zeros((len(yaw), 15), dtype=np.float32)
    # Half of the rotation is in the neck: both joints rotate the head.
    pose[:, 1] = pose[:, 4] = np.radians(yaw) / 2
    return {"pose": pose, "timestamp": np.arange(len(yaw)) * 0.5}


def test_min_gap() -> None:
    clips = (PlanClip(0, tuple(range(12))),)
    plan = TrainingPlan(clips, 0, 300, num_driving=2, choice=PairChoice("min_gap", min_gap_s=2.0))
    gaps = Counter()
    for position in range(300):
        pair = plan.pair(0, position, tracking=lambda clip: _tracking(np.zeros(12)))
        gaps.update(abs(pair.source - driver) for driver in pair.drivers)
        assert len(set(pair.drivers)) == 2
    # 2 s are four frames; the largest gap in 12 frames is 11.
    assert set(gaps) == set(range(4, 12))
    far = TrainingPlan(clips, 0, 50, choice=PairChoice("min_gap", min_gap_s=100.0))
    for position in range(50):
        pair = far.pair(0, position, tracking=lambda clip: _tracking(np.zeros(12)))
        assert pair.drivers == ((11,) if pair.source <= 5 else (0,))


def test_yaw_balanced() -> None:
    yaw = np.array([0.0] * 18 + [33.0, -37.0])
    np.testing.assert_allclose(yaw_deg(_tracking(yaw)["pose"]), yaw, atol=1e-4)
    plan = TrainingPlan((PlanClip(0, tuple(range(20))),), 0, 900, choice=PairChoice("yaw_balanced"))
    pairs = [plan.pair(0, p, tracking=lambda clip: _tracking(yaw)) for p in range(900)]
    sources = Counter("turned" if p.source >= 18 else "front" for p in pairs)
    # Two of three head turns are the rare ones: 600 expected, five standard deviations are 71.
    assert abs(sources["turned"] - 600) < 71
    assert all(p.source not in p.drivers for p in pairs)
