"""Batches from shards streamed by a WebDataset pipeline, for users with WebDataset code.

``datamodules.talking_heads`` is the default. It reads at random, so it can resume in the middle of an epoch,
gives every device the same pairs for any number of workers, and copies only the frames it uses.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import webdataset
from webdataset.shardlists import expand_urls

from datamodules.augmentation import Augmentation
from datamodules.base import RomeDataModule
from datamodules.batches import RawBatch, raw_batch, to_avatar_batch
from datamodules.codec import CorruptDataError, decode_image, decode_masks, decode_meta, select_frames
from datamodules.pairs import BatchNote
from datamodules.plan import EvaluationPlan, Pair, PlanClip
from datamodules.shards import WITH_ZLIB_LABELS
from datamodules.strategies import PairChoice

Sample = Mapping[str, Any]
"""A clip as WebDataset groups it: ``__key__`` and the three members of ``datamodules.codec``."""


@dataclass(frozen=True)
class DecodedPair:
    """A pair of a streamed clip."""

    clip: str
    pair: Pair
    arrays: dict[str, np.ndarray]
    """Rows of the source and its drivers by name, as of ``datamodules.pairs.BatchLayout``."""


def read_pair(sample: Sample, pair: Pair) -> DecodedPair:
    """Decode the frames of a pair.

    Raises:
        CorruptDataError: bytes do not match their checksum or do not decode.
    """
    meta, header = decode_meta(sample["meta.safetensors"])
    numbers = (pair.source, *pair.drivers)
    zlib_labels = header.get("schema") in WITH_ZLIB_LABELS
    images, masks = [], []
    for number in numbers:
        images.append(decode_image(_frame(sample, "frame", meta, number)))
        masks.append(decode_masks(_frame(sample, "mask", meta, number), zlib_labels=zlib_labels))
    arrays = select_frames(meta, numbers)
    arrays |= {"image": np.stack(images)}
    arrays |= {"regions": np.stack([m[0] for m in masks]), "matte": np.stack([m[1] for m in masks])}
    return DecodedPair(sample["__key__"], pair, arrays)


def _frame(sample: Sample, kind: str, meta: Mapping[str, np.ndarray], number: int) -> bytes:
    start, end = (int(place) for place in meta[f"{kind}_offsets"][number : number + 2])
    data = sample[f"{kind}s.bin"][start:end]
    if zlib.crc32(data) != meta[f"{kind}_crc32"][number]:
        raise CorruptDataError(f"{sample['__key__']}: {kind} {number} does not match its checksum")
    return data


def collate(pairs: Sequence[DecodedPair], augmented: bool) -> RawBatch:
    """The batch that ``PairLoader`` would make of the same pairs.

    Raises:
        ValueError: their frames differ in size.
    """
    sizes = {pair.arrays["image"].shape[1:3] for pair in pairs}
    if len(sizes) > 1:
        raise ValueError(f"shards that are streamed together must have one image size, got {sorted(sizes)}")
    names = [name for name in pairs[0].arrays if all(name in pair.arrays for pair in pairs)]
    arrays = {}
    for name in names:
        values = [pair.arrays[name] for pair in pairs]
        if name == "offsets":
            arrays[name] = np.stack(values)
        else:
            arrays[name] = np.concatenate([v[:1] for v in values] + [v[1:] for v in values])
    arrays["jitter"] = np.array([pair.pair.jitter for pair in pairs], dtype=np.float32)
    seeds = tuple(pair.pair.seed for pair in pairs)
    note = BatchNote(tuple(pair.clip for pair in pairs), seeds=seeds)
    return raw_batch(arrays, note, len(pairs[0].pair.drivers), augmented)


def _valid_frames(sample: Sample) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    meta, _ = decode_meta(sample["meta.safetensors"])
    return meta, tuple(int(number) for number in np.flatnonzero(meta["valid"]))


class _TrainingPairs(webdataset.PipelineStage):
    """Random pairs of each passing clip; every epoch, node and worker has a different stream."""

    def __init__(self, choice: PairChoice, num_driving: int, pairs_per_clip: int, seed: int) -> None:
        self.choice, self.num_driving = choice, num_driving
        self.pairs_per_clip, self.seed = pairs_per_clip, seed
        self.round = -1

    def run(self, samples: Iterable[Sample]) -> Iterator[DecodedPair]:
        self.round += 1
        rank, _, worker, _ = webdataset.utils.pytorch_worker_info()
        generator = np.random.default_rng([self.seed, self.round, rank, worker])
        for sample in samples:
            meta, frames = _valid_frames(sample)
            for _ in range(self.pairs_per_clip):
                source, drivers = self.choice.choose(generator, frames, self.num_driving, meta)
                jitter = tuple(float(value) for value in generator.uniform(-1, 1, 4))
                seed = int(generator.integers(2**32))
                yield read_pair(sample, Pair(0, source, drivers, jitter, seed))


class _EvaluationPairs(webdataset.PipelineStage):
    """The fixed pairs of each clip with at least two frames."""

    def __init__(self, pairs_per_clip: int) -> None:
        self.pairs_per_clip = pairs_per_clip

    def run(self, samples: Iterable[Sample]) -> Iterator[DecodedPair]:
        for sample in samples:
            _, frames = _valid_frames(sample)
            if len(frames) > 1:
                for pair in EvaluationPlan([PlanClip(0, frames)], None, self.pairs_per_clip):
                    yield read_pair(sample, pair)


class _Batches(webdataset.PipelineStage):
    def __init__(self, batch_size: int, augmented: bool, partial: bool) -> None:
        self.batch_size, self.augmented, self.partial = batch_size, augmented, partial

    def run(self, pairs: Iterable[DecodedPair]) -> Iterator[RawBatch]:
        for batch in webdataset.filters.batched(self.batch_size, collation_fn=None, partial=self.partial)(
            pairs
        ):
            yield collate(batch, self.augmented)


class WebDatasetDataModule(RomeDataModule):
    """Pairs of frames of one clip from shards that a WebDataset pipeline streams.

    Shards are shuffled, divided among devices and workers (``split_by_node``, ``split_by_worker``), read from
    the first byte to the last, and clips are shuffled in a buffer. A run cannot resume within an epoch, and
    what it sees depends on the number of workers and devices; ``TalkingHeadDataModule`` has neither limit.

    Args:
        urls: training shards: paths and URLs, with braces such as ``train-{00000..00099}.tar``; whatever
            WebDataset opens, also ``pipe:COMMAND``.
        val_urls: validation shards, read in this order; empty for no validation.
        image_size: height and width of the batches in pixels; at most the size stored in the shards.
        batch_size: sources per step on each device.
        num_driving: target frames per source in training; evaluation always has one.
        steps_per_epoch: training steps on each device; shards are read again when they end.
        pairs_per_clip: pairs taken from each passing clip.
        shuffle_clips: clips in the shuffle buffer; each takes a few megabytes.
        num_workers: processes per device that read and decode; 0 reads in the training process.
        seed: of the order, the choice of frames and the augmentation.
        pair_strategy: see ``datamodules.talking_heads``.
        min_gap_s: for ``min_gap``, seconds.
        yaw_bin_deg: for ``yaw_balanced``, degrees.
        eval_pairs_per_clip: evaluation pairs per clip, from its first frame to evenly spaced others.
        augmentation: changes of colour, framing and quality in training; null for none.
    """

    def __init__(
        self,
        urls: str | list[str],
        val_urls: str | list[str] = "",
        image_size: int = 256,
        batch_size: int = 8,
        num_driving: int = 1,
        steps_per_epoch: int = 125,
        pairs_per_clip: int = 4,
        shuffle_clips: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        pair_strategy: Literal["random", "min_gap", "yaw_balanced"] = "random",
        min_gap_s: float = 1.0,
        yaw_bin_deg: float = 10.0,
        eval_pairs_per_clip: int = 8,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(image_size)
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("num_driving", num_driving, 1),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("pairs_per_clip", pairs_per_clip, 1),
            ("shuffle_clips", shuffle_clips, 0),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("eval_pairs_per_clip", eval_pairs_per_clip, 1),
        ):
            if value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}; set data.init_args.{name}")
        self.urls, self.val_urls = _expanded(urls), _expanded(val_urls)
        if not self.urls:
            raise ValueError("data.init_args.urls names no shard")
        self.batch_size = batch_size
        self.num_driving = num_driving
        self.steps_per_epoch = steps_per_epoch
        self.pairs_per_clip = pairs_per_clip
        self.shuffle_clips = shuffle_clips
        self.num_workers = num_workers
        self.seed = seed
        self.choice = PairChoice(pair_strategy, min_gap_s, yaw_bin_deg)
        self.eval_pairs_per_clip = eval_pairs_per_clip
        self.augmentation = augmentation

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on during training."""
        return bool(self.val_urls)

    def training_pipeline(self) -> webdataset.DataPipeline:
        """An endless stream of ``RawBatch`` on this node and worker."""
        pairs = webdataset.DataPipeline(
            webdataset.SimpleShardList(self.urls),
            webdataset.detshuffle(bufsize=len(self.urls), initial=len(self.urls), seed=self.seed),
            webdataset.split_by_node,
            webdataset.split_by_worker,
            webdataset.tarfile_to_samples(),
            # The buffer fills before the first clip leaves it; otherwise the first clips would keep their
            # order.
            webdataset.detshuffle(bufsize=self.shuffle_clips, initial=self.shuffle_clips, seed=self.seed)
            if self.shuffle_clips
            else None,
            _TrainingPairs(self.choice, self.num_driving, self.pairs_per_clip, self.seed),
        ).repeat()
        # Batches continue from one round to the next: a worker's share may have fewer pairs than one batch.
        return webdataset.DataPipeline(
            pairs, _Batches(self.batch_size, self.augmentation is not None, partial=False)
        )

    def evaluation_pipeline(self) -> webdataset.DataPipeline:
        """The fixed pairs of the validation shards on this node and worker, once."""
        return webdataset.DataPipeline(
            webdataset.SimpleShardList(self.val_urls),
            webdataset.split_by_node,
            webdataset.split_by_worker,
            webdataset.tarfile_to_samples(),
            _EvaluationPairs(self.eval_pairs_per_clip),
            _Batches(self.batch_size, augmented=False, partial=True),
        )

    def train_dataloader(self) -> webdataset.WebLoader:
        """Raw training batches, ``steps_per_epoch`` of them.

        Raises:
            ValueError: there are fewer shards than reading processes, so some would have nothing to do.
        """
        world_size = self.trainer.world_size if self.trainer is not None else 1
        readers = world_size * max(self.num_workers, 1)
        if len(self.urls) < readers:
            raise ValueError(
                f"{len(self.urls)} shards cannot be divided among {readers} readers ({world_size} devices x "
                f"{max(self.num_workers, 1)} workers); set data.init_args.num_workers, or build more "
                "shards with a lower videos_per_shard"
            )
        loader = self._loader(self.training_pipeline())
        return loader.with_epoch(self.steps_per_epoch).with_length(self.steps_per_epoch, silent=True)

    def val_dataloader(self) -> webdataset.WebLoader | list[webdataset.WebLoader]:
        """Fixed pairs, each once; empty without ``val_urls``."""
        return self._loader(self.evaluation_pipeline()) if self.validates else []

    def _loader(self, pipeline: webdataset.DataPipeline) -> webdataset.WebLoader:
        # Persistent workers count the rounds; new ones would shuffle every epoch the same way.
        return webdataset.WebLoader(
            pipeline, batch_size=None, num_workers=self.num_workers, persistent_workers=self.num_workers > 0
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Decode on the device; other kinds of batches pass through.

        Raises:
            ValueError: the shards have smaller images than requested.
        """
        if not isinstance(batch, RawBatch):
            return batch
        stored = batch.source.image.shape[1]
        if self.image_size > stored:
            raise ValueError(
                f"image_size must be at most the stored {stored}, got {self.image_size}; set "
                "data.init_args.image_size or prepare the dataset again"
            )
        return to_avatar_batch(batch, self.image_size, self.augmentation)


def _expanded(urls: str | list[str]) -> list[str]:
    listed = [urls] if isinstance(urls, str) else urls
    return [url for pattern in listed if pattern for url in expand_urls(pattern)]
