"""Pairs of a plan, decoded into the memory of a batch.

Nothing here imports torch, so a worker process starts in a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.codec import CorruptDataError
from datamodules.plan import Pair, TrainingPlan
from datamodules.reading import ClipReader, FrameImages, JoinedReader

_ATTEMPTS_PER_CLIP = 4
_CLIPS_PER_PAIR = 16
"""After this many unreadable clips in a row, the dataset counts as broken."""
_ALIGNMENT = 64

Place = tuple[int, int]
"""Epoch and position in it."""
BatchArrays = dict[str, np.ndarray]
"""By field of ``BatchLayout``; row i is the source of pair i, its targets follow the sources of all pairs.
``jitter`` and ``offsets`` have one row per pair."""


@dataclass(frozen=True)
class BatchLayout:
    """Fields of a batch of raw frames and their positions in one block of memory."""

    batch_size: int
    num_driving: int
    image_size: int
    """As stored."""
    row_shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Shape of one frame's parameters by name."""
    offsets_shape: tuple[int, ...] | None = None
    """Of a clip's offsets; None if it has none."""

    def _fields(self) -> list[tuple[str, tuple[int, ...], np.dtype]]:
        rows, size = self.batch_size * (1 + self.num_driving), self.image_size
        byte, number = np.dtype(np.uint8), np.dtype(np.float32)
        offsets = (self.batch_size, *self.offsets_shape) if self.offsets_shape else None
        return [
            ("image", (rows, size, size, 3), byte),
            ("matte", (rows, size, size), byte),
            ("regions", (rows, size, size), byte),
            *((name, (rows, *shape), number) for name, shape in self.row_shapes),
            ("jitter", (self.batch_size, 4), number),
            *([("offsets", offsets, np.dtype(np.float16))] if offsets else []),
        ]

    @property
    def num_bytes(self) -> int:
        """Size of the block."""
        return sum(_padded(math.prod(shape) * kind.itemsize) for _, shape, kind in self._fields())

    def arrays(self, block: object, offset: int = 0) -> BatchArrays:
        """Views of a block of memory."""
        views = {}
        for name, shape, kind in self._fields():
            count = math.prod(shape)
            views[name] = np.frombuffer(block, kind, count, offset).reshape(shape)  # type: ignore[call-overload]
            offset += _padded(count * kind.itemsize)
        return views

    def empty(self) -> BatchArrays:
        """Memory of one batch."""
        return {name: np.empty(shape, kind) for name, shape, kind in self._fields()}


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class BatchNote:
    """A worker's report on a batch that it wrote."""

    clips: tuple[str, ...]
    """Key of the clip of each pair."""
    skipped: int = 0
    """Pairs that could not be read and were replaced."""
    seeds: tuple[int, ...] = ()
    """``Pair.seed`` of each pair."""


class PairSource:
    """Reads pairs into the memory of a batch.

    Args:
        reader: of the clips.
        batch_size: pairs per batch.
        num_driving: drivers per pair.
    """

    augmented = False
    """Whether to use ``jitter``."""

    def __init__(self, reader: ClipReader | JoinedReader, batch_size: int, num_driving: int) -> None:
        self.reader = reader
        shapes = dict(reader.parameter_shapes())
        offsets = shapes.pop("offsets", None)
        self.layout = BatchLayout(batch_size, num_driving, reader.image_size, tuple(shapes.items()), offsets)

    def write(self, places: Sequence[Place], arrays: BatchArrays) -> BatchNote:
        """Decode the pairs at some positions of the stream.

        Args:
            places: at most ``batch_size``.
            arrays: of ``layout``; receives the pairs.

        Raises:
            CorruptDataError: a pair cannot be read.
        """
        clips, seeds, skipped, targets = [], [], 0, self.layout.num_driving
        for index, place in enumerate(places):
            first = len(places) + index * targets
            rows = [index, *range(first, first + targets)]
            pair, missed = self._write(place, rows, arrays)
            arrays["jitter"][index] = pair.jitter
            clips.append(self.reader.key(pair.clip))
            seeds.append(pair.seed)
            skipped += missed
        return BatchNote(tuple(clips), skipped, tuple(seeds))

    def _write(self, place: Place, rows: list[int], arrays: BatchArrays) -> tuple[Pair, int]:
        """Write one pair; return it and how many others failed before it."""
        # Subclasses differ in the pair at a position.
        raise NotImplementedError

    def _write_pair(self, pair: Pair, rows: list[int], arrays: BatchArrays) -> None:
        frames = (pair.source, *pair.drivers)
        for frame, row in zip(frames, rows, strict=True):
            out = FrameImages(arrays["image"][row], arrays["regions"][row], arrays["matte"][row])
            self.reader.frame(pair.clip, frame, out)
        parameters = self.reader.parameters(pair.clip, frames)
        for name, _ in self.layout.row_shapes:
            arrays[name][rows] = parameters[name]
        if self.layout.offsets_shape:
            # Once per pair: 36 KB for every frame would be a third of its picture.
            arrays["offsets"][rows[0]] = parameters["offsets"]


class TrainingPairs(PairSource):
    """Pairs of a training plan.

    A pair that cannot be read is replaced: by other frames of the clip, then by the next clip.
    """

    augmented = True

    def __init__(self, reader: ClipReader | JoinedReader, plan: TrainingPlan, batch_size: int) -> None:
        super().__init__(reader, batch_size, plan.num_driving)
        self.plan = plan

    def _write(self, place: Place, rows: list[int], arrays: BatchArrays) -> tuple[Pair, int]:
        epoch, position = place
        failed, error = 0, None
        for clip in range(_CLIPS_PER_PAIR):
            for attempt in range(_ATTEMPTS_PER_CLIP):
                try:
                    there = position + clip * self.plan.pairs_per_clip
                    pair = self.plan.pair(epoch, there, attempt, lambda clip: self.reader.meta(clip)[0])
                    self._write_pair(pair, rows, arrays)
                except CorruptDataError as failure:
                    failed, error = failed + 1, failure
                    continue
                return pair, failed
        raise CorruptDataError(f"{_CLIPS_PER_PAIR} clips in a row cannot be read; the last error: {error}")


class EvaluationPairs(PairSource):
    """Fixed pairs; one that cannot be read is an error, since replacing it would change scores."""

    def __init__(self, reader: ClipReader | JoinedReader, pairs: Sequence[Pair], batch_size: int) -> None:
        super().__init__(reader, batch_size, num_driving=1)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def _write(self, place: Place, rows: list[int], arrays: BatchArrays) -> tuple[Pair, int]:
        pair = self.pairs[place[1]]
        self._write_pair(pair, rows, arrays)
        return pair, 0
