"""Distribute the positions of the stream of pairs among ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch.utils.data import Dataset, DistributedSampler


def _init_sampler(
    sampler: DistributedSampler[tuple[int, int]], length: int, replicas: int, rank: int
) -> None:
    # The base class needs a dataset only for its length.
    sized = cast("Dataset[tuple[int, int]]", range(length))
    DistributedSampler.__init__(sampler, sized, num_replicas=replicas, rank=rank, shuffle=False)


class TrainingSampler(DistributedSampler[tuple[int, int]]):
    """Positions of one rank as (epoch, position); rank r takes every r-th batch of the global stream.

    A ``DistributedSampler`` because Lightning would divide the work of any other sampler once more;
    Lightning also calls its ``set_epoch``. All ranks take the same number of steps: the incomplete tail of an
    epoch is dropped.

    Args:
        pairs_per_epoch: over all ranks.
        batch_size: pairs per step of a rank.
        num_replicas: number of ranks.
        rank: of this process.
        epoch: to begin with.
        position: pairs of that epoch, over all ranks, that were seen before; other epochs begin at 0.
    """

    def __init__(
        self,
        pairs_per_epoch: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        position: int = 0,
    ) -> None:
        _init_sampler(self, pairs_per_epoch, num_replicas, rank)
        self.batch_size = batch_size
        self.steps = pairs_per_epoch // (batch_size * num_replicas)
        self._start = (epoch, position)
        # Lightning asks for the first batches before it sets the epoch of a resumed run.
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, skipped = self.epoch, 0
        if epoch == self._start[0]:
            skipped = self._start[1] // (self.batch_size * self.num_replicas)
        for step in range(skipped, self.steps):
            first = (step * self.num_replicas + self.rank) * self.batch_size
            for place in range(self.batch_size):
                yield epoch, first + place

    def freeze_epoch(self) -> None:
        """Return the same positions in every epoch, to overfit them."""
        self.set_epoch = lambda epoch: None  # type: ignore[method-assign]

    def __len__(self) -> int:
        # Length of a whole epoch even when resuming, because Lightning adds the finished steps itself.
        return self.steps * self.batch_size


class EvaluationSampler(DistributedSampler[tuple[int, int]]):
    """Every ``num_replicas``-th of a fixed list of pairs, without padding that counts some twice."""

    def __init__(self, num_pairs: int, num_replicas: int = 1, rank: int = 0) -> None:
        _init_sampler(self, num_pairs, num_replicas, rank)
        self.num_pairs = num_pairs

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, position) for position in range(self.rank, self.num_pairs, self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, self.num_pairs, self.num_replicas))
