"""Which frames a training run sees, as a pure function of (seed, epoch, position).

A plan knows nothing of workers and ranks: those only divide positions among themselves, so the
stream of pairs is the same for any number of them, and a run can go on from a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pair:
    """A source frame and the frames it has to drive."""

    clip: int
    """Index into the plan's clips."""
    source: int
    """Frame index in the clip."""
    drivers: tuple[int, ...]
    jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Four uniform numbers in [-1, 1] for the augmentation that the frames of the pair share."""


@dataclass(frozen=True)
class PlanClip:
    """What a plan has to know about a clip."""

    shard: int
    frames: tuple[int, ...]
    """Frames that may be used."""


@dataclass(frozen=True)
class TrainingPlan:
    """An endless stream of pairs in rounds; each round visits every clip exactly once.

    Rounds go on across epochs, so clips are visited equally often even if the length of an epoch is
    no multiple of their number. Within a round shards are permuted and clips shuffled within windows
    of shards, which keeps reads local for datasets larger than memory.
    """

    clips: tuple[PlanClip, ...]
    seed: int
    pairs_per_epoch: int
    num_driving: int = 1
    shards_per_window: int = 16
    _orders: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("a plan needs at least one clip")
        for index, clip in enumerate(self.clips):
            if len(clip.frames) < 2:
                raise ValueError(f"clip {index} has {len(clip.frames)} usable frames; a pair needs 2")

    def pair(self, epoch: int, position: int, attempt: int = 0) -> Pair:
        """The pair at a position of an epoch.

        Args:
            epoch: from 0.
            position: from 0; positions past the end of the epoch are those of the next one.
            attempt: other frames of the same clip, for when those of attempt 0 cannot be read.
        """
        round_index, place = divmod(epoch * self.pairs_per_epoch + position, len(self.clips))
        clip = int(self._order(round_index)[place])
        # A counter-based generator: no state to carry, and nearby keys give independent streams.
        bits = np.random.Philox(key=[self.seed, round_index], counter=[0, clip + 1, attempt, 0])
        generator = np.random.Generator(bits)
        frames = self.clips[clip].frames
        if len(frames) > self.num_driving:
            chosen = generator.choice(len(frames), self.num_driving + 1, replace=False)
        else:
            # Fewer frames than asked for: drivers repeat, the source stays apart from them.
            source = generator.integers(len(frames))
            others = generator.integers(1, len(frames), self.num_driving)
            chosen = np.concatenate([[source], (source + others) % len(frames)])
        jitter = generator.uniform(-1, 1, 4)
        return Pair(
            clip,
            frames[int(chosen[0])],
            tuple(frames[int(index)] for index in chosen[1:]),
            tuple(float(value) for value in jitter),
        )

    def _order(self, round_index: int) -> np.ndarray:
        """Order of the clips in a round."""
        if round_index not in self._orders:
            for old in [key for key in self._orders if key < round_index - 1]:
                del self._orders[old]
            self._orders[round_index] = self._shuffled(round_index)
        return self._orders[round_index]

    def _shuffled(self, round_index: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, round_index]))
        members: dict[int, list[int]] = {}
        for index, clip in enumerate(self.clips):
            members.setdefault(clip.shard, []).append(index)
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

    Args:
        clips: their first frames are the sources, unless ``sources`` says otherwise.
        targets: frames of each clip that may be targets; the source itself is left out.
        pairs_per_clip: at most so many pairs of each clip, each with one driver.
        sources: source frame of each clip.
    """
    pairs = []
    for index, (clip, allowed) in enumerate(zip(clips, targets, strict=True)):
        source = clip.frames[0] if sources is None else sources[index]
        others = [frame for frame in allowed if frame != source]
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
