"""Batches in the order of a sampler, decoded here or in worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import BatchSampler, Sampler

from datamodules.batches import RawBatch, raw_batch
from datamodules.pairs import BatchArrays, BatchNote, PairSource, Place
from datamodules.workers import WorkerPool


class PairLoader:
    """An iterable of ``RawBatch``; each ``iter`` is one epoch of the sampler.

    The batches do not depend on ``num_workers``. Nothing is read before the first batch is requested, because
    Lightning makes iterators before it sets the sampler's epoch.

    Args:
        source: reads the pairs.
        sampler: places of this rank's pairs; its ``set_epoch`` is called by Lightning.
        num_workers: processes that decode; 0 decodes in the caller.
        timeout_s: a worker that has not answered for this long is replaced.
        pin_memory: return page-locked copies, which move to a GPU while it computes.
    """

    def __init__(
        self,
        source: PairSource,
        sampler: Sampler[Place],
        num_workers: int = 0,
        timeout_s: float = 120.0,
        pin_memory: bool = False,
    ) -> None:
        self.source = source
        # Named so that Lightning calls ``set_epoch`` but does not treat this as a DataLoader to rebuild.
        self.batch_sampler = BatchSampler(
            cast("Sampler[int]", sampler), source.layout.batch_size, drop_last=False
        )
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self.pin_memory = pin_memory
        self._pool: WorkerPool | None = None

    @property
    def batch_size(self) -> int:
        """Pairs per batch; the last one of an evaluation may have fewer."""
        return self.batch_sampler.batch_size

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[RawBatch]:
        for batch in self._serve() if self.num_workers else self._decode():
            yield batch.pin_memory() if self.pin_memory else batch

    def _places(self) -> Iterator[list[Place]]:
        return iter(cast("Sampler[list[Place]]", self.batch_sampler))

    def _decode(self) -> Iterator[RawBatch]:
        for places in self._places():
            arrays = self.source.layout.empty()
            note = self.source.write(places, arrays)
            yield self._batch(arrays, note)

    def _batch(self, arrays: BatchArrays, note: BatchNote, restarted: int = 0) -> RawBatch:
        return raw_batch(arrays, note, self.source.layout.num_driving, self.source.augmented, restarted)

    def _serve(self) -> Iterator[RawBatch]:
        if self._pool is None:
            self._pool = WorkerPool(self.source, self.num_workers, self.timeout_s)
        pool, places, waiting = self._pool, self._places(), deque[int]()
        pool.begin()
        finished = False
        while True:
            while not finished and pool.has_room:
                asked = next(places, None)
                if asked is None:
                    finished = True
                else:
                    waiting.append(pool.submit(asked))
            if not waiting:
                return
            before = pool.restarts
            arrays, note = pool.collect(waiting.popleft())
            yield self._batch(arrays, note, pool.restarts - before)
            # A reference here would keep the slot from being reused.
            del arrays

    def state_dict(self) -> dict[str, Any]:
        """Tells Lightning that the loader can be resumed; the position is in the data module's state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counterpart of ``state_dict``: the sampler already starts at the right position."""

    def close(self) -> None:
        """End the workers; the next epoch starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
