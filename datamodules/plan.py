"""Which frames a training run sees, as a pure function of (seed, epoch, position).

A plan knows nothing of workers and ranks. They only divide positions among themselves, so the stream of pairs
is the same for any number of them, and a run can resume at any position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import overload

import numpy as np
from jaxtyping import Int

from datamodules.strategies import PairChoice

_BLOCK = 1024
"""Number of visits within which each manifest gets its exact share, up to rounding."""

Tracking = Callable[[int], Mapping[str, np.ndarray]]
"""Tensors of a clip by its number, see ``datamodules.codec.META_TENSORS``."""


@dataclass(frozen=True)
class Pair:
    """A source frame and the frames that it must be driven to."""

    clip: int
    """Index into the plan's clips."""
    source: int
    """Frame index in the clip."""
    drivers: tuple[int, ...]
    jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Four uniform numbers in [-1, 1] for the colour change shared by the frames of the pair."""
    seed: int = 0
    """Seed of all other augmentation of the pair."""


@dataclass(frozen=True)
class PlanClip:
    """What a plan needs to know about a clip."""

    shard: int
    frames: tuple[int, ...]
    """Frames that may be used."""


class ClipTable(Sequence[PlanClip]):
    """The clips of a plan in four arrays: a few bytes per clip, where objects would take kilobytes.

    Args:
        shards: number of each clip's shard.
        starts: where the frames of each clip begin in ``frames``.
        counts: frames of each clip.
        frames: frames that may be used, clip by clip.
    """

    def __init__(
        self,
        shards: Int[np.ndarray, " n"],
        starts: Int[np.ndarray, " n"],
        counts: Int[np.ndarray, " n"],
        frames: Int[np.ndarray, " m"],
    ) -> None:
        self.shards, self.starts, self.counts, self.frames = shards, starts, counts, frames

    @classmethod
    def of(cls, clips: Sequence[PlanClip]) -> ClipTable:
        """Convert clips to a table; a table is returned unchanged."""
        if isinstance(clips, ClipTable):
            return clips
        counts = np.array([len(clip.frames) for clip in clips], np.int64)
        frames = np.array([frame for clip in clips for frame in clip.frames], np.int64)
        shards = np.array([clip.shard for clip in clips], np.int64)
        return cls(shards, np.cumsum(counts) - counts, counts, frames)

    @classmethod
    def joined(cls, tables: Sequence[ClipTable], num_shards: Sequence[int]) -> ClipTable:
        """Concatenate tables; shard numbers continue."""
        firsts = np.cumsum([0, *num_shards[:-1]])
        places = np.cumsum([0, *(len(table.frames) for table in tables[:-1])])
        return cls(
            np.concatenate([table.shards + first for table, first in zip(tables, firsts, strict=True)]),
            np.concatenate([table.starts + place for table, place in zip(tables, places, strict=True)]),
            np.concatenate([table.counts for table in tables]),
            np.concatenate([table.frames for table in tables]),
        )

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> PlanClip: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlanClip]: ...
    def __getitem__(self, index: int | slice) -> PlanClip | list[PlanClip]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return PlanClip(int(self.shards[index]), self.frames_of(index))

    def frames_of(self, clip: int) -> tuple[int, ...]:
        """Frames of a clip."""
        start = int(self.starts[clip])
        return tuple(self.frames[start : start + int(self.counts[clip])].tolist())

    def held_out(self, ratio: float) -> tuple[ClipTable, ClipTable]:
        """Split the frames of every clip in time: the first ones for training, the last ones held out.

        At least two frames stay for training, and none is held out if ``ratio`` is 0.
        """
        held = np.minimum(np.rint(self.counts * ratio), np.maximum(self.counts - 2, 0)).astype(np.int64)
        kept = self.counts - held
        return (
            ClipTable(self.shards, self.starts, kept, self.frames),
            ClipTable(self.shards, self.starts + kept, held, self.frames),
        )


@dataclass(frozen=True)
class PlanGroup:
    """Consecutive clips of a plan that share a weight: those of one manifest."""

    num_clips: int
    weight: float
    """Share of the pairs, relative to the other groups."""


@dataclass(frozen=True)
class TrainingPlan:
    """An endless stream of visits to clips, in rounds; each round visits every clip exactly once.

    Rounds continue across epochs, so clips are visited equally often even if the epoch length is not a
    multiple of their number. Within a round shards are permuted and clips shuffled within windows
    of shards, which keeps reads local for datasets larger than memory. With several groups, each has its own
    rounds and takes its share of every ``_BLOCK`` visits.
    """

    clips: Sequence[PlanClip]
    seed: int
    pairs_per_epoch: int
    num_driving: int = 1
    shards_per_window: int = 16
    groups: tuple[PlanGroup, ...] = ()
    """In the order of ``clips``; empty for one group."""
    pairs_per_clip: int = 1
    """Pairs taken at each visit of a clip, one after the other."""
    choice: PairChoice = field(default_factory=PairChoice)
    _table: ClipTable = field(init=False, compare=False, repr=False)
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    _generator: np.random.Generator = field(
        default_factory=lambda: np.random.Generator(np.random.Philox(key=[0, 0])), compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("a plan needs at least one clip")
        object.__setattr__(self, "_table", ClipTable.of(self.clips))
        object.__setattr__(self, "clips", self._table)
        empty = np.flatnonzero(self._table.counts == 0)
        if len(empty):
            raise ValueError(f"clip {empty[0]} has no usable frame; a pair needs one")
        if self.groups:
            assert sum(group.num_clips for group in self.groups) == len(self.clips), "groups cover the clips"

    def pair(self, epoch: int, position: int, attempt: int = 0, tracking: Tracking | None = None) -> Pair:
        """The pair at a position of an epoch.

        Args:
            epoch: from 0.
            position: from 0; positions past the end of the epoch are those of the next one.
            attempt: selects other frames of the same clip if those of attempt 0 cannot be read.
            tracking: tensors of a clip, for choices that need them.
        """
        visit, place = divmod(epoch * self.pairs_per_epoch + position, self.pairs_per_clip)
        round_index, clip = self._visited(visit)
        generator = self._generator_at(round_index, [0, clip + 1, attempt, place])
        known = tracking(clip) if tracking is not None and self.choice.needs_tracking else None
        source, drivers = self.choice.choose(generator, self._table.frames_of(clip), self.num_driving, known)
        jitter = tuple(float(value) for value in generator.uniform(-1, 1, 4))
        return Pair(clip, source, drivers, jitter, int(generator.integers(2**32)))

    def _generator_at(self, round_index: int, counter: list[int]) -> np.random.Generator:
        """A counter-based generator: no state to carry, and nearby keys give independent streams.

        One object is reset and stays valid until the next call: to make another, numpy asks the system for
        entropy, which takes four times as long.
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
        of_group = self._table.shards[first : first + count]
        # Clips by shard, in their order.
        order = first + np.argsort(of_group, kind="stable")
        numbers, begins = np.unique(self._table.shards[order], return_index=True)
        members = dict(zip(numbers.tolist(), np.split(order, begins[1:]), strict=True))
        shards = generator.permutation(numbers.astype(np.int64)).tolist()
        windows = []
        for start in range(0, len(shards), self.shards_per_window):
            window = [members[shard] for shard in shards[start : start + self.shards_per_window]]
            windows.append(generator.permutation(np.concatenate(window)))
        return np.concatenate(windows)


def _evenly(count: int, wanted: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unique(np.linspace(0, count - 1, min(wanted, count)).round()))


class EvaluationPlan(Sequence[Pair]):
    """Fixed pairs: one source frame per clip and evenly spaced targets; each is made when it is asked for.

    A clip with one frame, a photograph, is its own target only if no clip has a second frame: beside real
    pairs such reconstructions would inflate the score.

    Beyond ``max_pairs``, clips get fewer pairs, down to one; if that is still too many, evenly spaced clips
    are used, so a larger dataset does not make validation longer.

    Args:
        clips: their first frames are the sources, unless ``source_of`` says otherwise.
        targets: frames of each clip that are not in ``clips``, such as held-out frames
            (``ClipTable.held_out``); None for the clips themselves.
        pairs_per_clip: at most so many pairs of each clip, each with one driver.
        max_pairs: at most so many pairs in all; None for no limit.
        source_of: source frame of a clip, by its number and its frames.
    """

    def __init__(
        self,
        clips: Sequence[PlanClip],
        targets: Sequence[PlanClip] | None,
        pairs_per_clip: int,
        max_pairs: int | None = None,
        source_of: Callable[[int, Sequence[int]], int] | None = None,
    ) -> None:
        self._clips = ClipTable.of(clips)
        self._targets = self._clips if targets is None else ClipTable.of(targets)
        self._source_of = source_of
        self._single = bool((self._clips.counts < 2).all())
        # A source is never a target.
        overlap = 1 if targets is None and not self._single else 0
        others = np.maximum(self._targets.counts - overlap, 0)
        self._members = np.flatnonzero(others > 0)
        self.pairs_per_clip = pairs_per_clip
        if max_pairs is not None and np.minimum(others, pairs_per_clip).sum() > max_pairs:
            if len(self._members) > max_pairs:
                self._members = self._members[list(_evenly(len(self._members), max_pairs))]
            self.pairs_per_clip = min(pairs_per_clip, max_pairs // len(self._members))
        self._ends = np.cumsum(np.minimum(others[self._members], self.pairs_per_clip))
        # Cache of the last requested clip: finding its source may need a read, and its pairs are consecutive.
        self._last: tuple[int, int, list[int]] = (-1, 0, [])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        place = int(np.searchsorted(self._ends, index, side="right"))
        number = index - (int(self._ends[place - 1]) if place else 0)
        clip = int(self._members[place])
        if clip != self._last[0]:
            frames = self._clips.frames_of(clip)
            source = frames[0] if self._source_of is None else self._source_of(clip, frames)
            others = [frame for frame in self._targets.frames_of(clip) if frame != source or self._single]
            self._last = (clip, source, others)
        _, source, others = self._last
        return Pair(clip, source, (others[_evenly(len(others), self.pairs_per_clip)[number]],))
