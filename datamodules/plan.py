"""Which frames a training run sees, as a pure function of (seed, epoch, position).

A plan knows nothing of workers and ranks: those only divide positions among themselves, so the
stream of pairs is the same for any number of them, and a run can resume at any position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from datamodules.strategies import PairChoice

_BLOCK = 1024
"""Visits within which several manifests get their shares exactly, up to rounding."""

Tracking = Callable[[int], Mapping[str, np.ndarray]]
"""Tensors of a clip by its number, see ``datamodules.codec.META_TENSORS``."""


@dataclass(frozen=True)
class Pair:
    """A source frame and the frames it has to drive."""

    clip: int
    """Index into the plan's clips."""
    source: int
    """Frame index in the clip."""
    drivers: tuple[int, ...]
    jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Four uniform numbers in [-1, 1] for the change of colours that the frames of the pair share."""
    seed: int = 0
    """Of all other augmentation of the pair."""


@dataclass(frozen=True)
class PlanClip:
    """What a plan has to know about a clip."""

    shard: int
    frames: tuple[int, ...]
    """Frames that may be used."""


@dataclass(frozen=True)
class PlanGroup:
    """Consecutive clips of a plan that share a weight: those of one manifest."""

    num_clips: int
    weight: float
    """Share of the pairs, relative to the other groups."""


@dataclass(frozen=True)
class TrainingPlan:
    """An endless stream of visits to clips, in rounds; each round visits every clip exactly once.

    Rounds go on across epochs, so clips are visited equally often even if the length of an epoch is
    no multiple of their number. Within a round shards are permuted and clips shuffled within windows
    of shards, which keeps reads local for datasets larger than memory. With several groups each has
    rounds of its own, and takes its share of every ``_BLOCK`` visits.
    """

    clips: tuple[PlanClip, ...]
    seed: int
    pairs_per_epoch: int
    num_driving: int = 1
    shards_per_window: int = 16
    groups: tuple[PlanGroup, ...] = ()
    """In the order of ``clips``; empty for one group."""
    pairs_per_clip: int = 1
    """Pairs taken at each visit of a clip, one after the other."""
    choice: PairChoice = field(default_factory=PairChoice)
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    _generator: np.random.Generator = field(
        default_factory=lambda: np.random.Generator(np.random.Philox(key=[0, 0])), compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("a plan needs at least one clip")
        for index, clip in enumerate(self.clips):
            if not clip.frames:
                raise ValueError(f"clip {index} has no usable frame; a pair needs one")
        if self.groups:
            assert sum(group.num_clips for group in self.groups) == len(self.clips), "groups cover the clips"

    def pair(self, epoch: int, position: int, attempt: int = 0, tracking: Tracking | None = None) -> Pair:
        """The pair at a position of an epoch.

        Args:
            epoch: from 0.
            position: from 0; positions past the end of the epoch are those of the next one.
            attempt: other frames of the same clip, for when those of attempt 0 cannot be read.
            tracking: tensors of a clip, for choices that need them.
        """
        visit, place = divmod(epoch * self.pairs_per_epoch + position, self.pairs_per_clip)
        round_index, clip = self._visited(visit)
        generator = self._generator_at(round_index, [0, clip + 1, attempt, place])
        known = tracking(clip) if tracking is not None and self.choice.needs_tracking else None
        source, drivers = self.choice.choose(generator, self.clips[clip].frames, self.num_driving, known)
        jitter = tuple(float(value) for value in generator.uniform(-1, 1, 4))
        return Pair(clip, source, drivers, jitter, int(generator.integers(2**32)))

    def _generator_at(self, round_index: int, counter: list[int]) -> np.random.Generator:
        """A counter-based generator: no state to carry, and nearby keys give independent streams.

        It is one object that is set anew, valid until the next call: numpy asks the system for entropy to
        make another, which takes four times as long.
        """
        state = {
            "counter": np.array(counter, np.uint64),
            "key": np.array([self.seed, round_index], np.uint64),
        }
        self._generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": state,
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator

    def _visited(self, visit: int) -> tuple[int, int]:
        """Round and clip of a visit."""
        if len(self.groups) < 2:
            round_index, place = divmod(visit, len(self.clips))
            return round_index, int(self._order(0, round_index)[place])
        block_index, place = divmod(visit, _BLOCK)
        block = self._block(block_index)
        group = int(block[place])
        earlier = int(np.count_nonzero(block[:place] == group))
        in_group = block_index * self._per_block()[group] + earlier
        round_index, place = divmod(in_group, self.groups[group].num_clips)
        return round_index, int(self._order(group, round_index)[place])

    def _per_block(self) -> list[int]:
        """Visits of each group in a block: its share, and at least one."""
        total = sum(group.weight for group in self.groups)
        edges, passed = [0], 0.0
        for group in self.groups:
            passed += group.weight
            edges.append(round(_BLOCK * passed / total))
        counts = [max(end - start, 1) for start, end in pairwise(edges)]
        counts[counts.index(max(counts))] += _BLOCK - sum(counts)
        return counts

    def _block(self, index: int) -> np.ndarray:
        """Groups of the visits of a block."""
        if index not in self._blocks:
            for old in [key for key in self._blocks if key < index - 1]:
                del self._blocks[old]
            generator = self._generator_at(index, [0, 0, 1, 0])
            counts = self._per_block()
            self._blocks[index] = generator.permutation(np.repeat(np.arange(len(counts)), counts))
        return self._blocks[index]

    def _order(self, group: int, round_index: int) -> np.ndarray:
        """Order of a group's clips in a round."""
        key = (group, round_index)
        if key not in self._orders:
            for old in [k for k in self._orders if k[0] == group and k[1] < round_index - 1]:
                del self._orders[old]
            self._orders[key] = self._shuffled(group, round_index)
        return self._orders[key]

    def _shuffled(self, group: int, round_index: int) -> np.ndarray:
        generator = self._generator_at(round_index, [0, 0, 0, group])
        first = sum(g.num_clips for g in self.groups[:group])
        count = self.groups[group].num_clips if self.groups else len(self.clips)
        members: dict[int, list[int]] = {}
        for index in range(first, first + count):
            members.setdefault(self.clips[index].shard, []).append(index)
        shards = generator.permutation(sorted(members))
        windows = []
        for start in range(0, len(shards), self.shards_per_window):
            window = [
                i for shard in shards[start : start + self.shards_per_window] for i in members[int(shard)]
            ]
            windows.append(generator.permutation(window))
        return np.concatenate(windows)


def _evenly(count: int, wanted: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unique(np.linspace(0, count - 1, min(wanted, count)).round()))


def evaluation_pairs(
    clips: Sequence[PlanClip],
    targets: Sequence[Sequence[int]],
    pairs_per_clip: int,
    sources: Sequence[int] | None = None,
) -> list[Pair]:
    """Fixed pairs: one source frame per clip and evenly spaced targets.

    A clip's only frame, a photograph, is its own target where no clip has another: beside real pairs such
    reconstructions would only raise the score.

    Args:
        clips: their first frames are the sources, unless ``sources`` says otherwise.
        targets: frames of each clip that may be targets; the source itself only where there is no other.
        pairs_per_clip: at most so many pairs of each clip, each with one driver.
        sources: source frame of each clip.
    """
    pairs = []
    single = all(len(clip.frames) < 2 for clip in clips)
    for index, (clip, allowed) in enumerate(zip(clips, targets, strict=True)):
        source = clip.frames[0] if sources is None else sources[index]
        others = [frame for frame in allowed if frame != source or single]
        if others:
            chosen = _evenly(len(others), pairs_per_clip)
            pairs += [Pair(index, source, (others[place],)) for place in chosen]
    return pairs


def split_holdout(frames: Sequence[int], holdout_ratio: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split the frames of a clip in time: the first ones for training, the last ones held out.

    At least two frames stay for training, and none is held out if ``holdout_ratio`` is 0.
    """
    held = min(round(len(frames) * holdout_ratio), max(len(frames) - 2, 0))
    kept = len(frames) - held
    return tuple(frames[:kept]), tuple(frames[kept:])
