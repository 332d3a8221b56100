"""Batches of real talking heads for training and evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.augmentation import Augmentation
from datamodules.base import RomeDataModule
from datamodules.batches import RawBatch, to_avatar_batch
from datamodules.loader import PairLoader
from datamodules.manifest import Manifest
from datamodules.pairs import EvaluationPairs, PairSource, TrainingPairs
from datamodules.plan import ClipTable, EvaluationPlan, PlanGroup, TrainingPlan
from datamodules.reading import ClipReader, JoinedReader
from datamodules.remote import RemoteFolder, is_remote, open_remote
from datamodules.resuming import StreamPosition, adopt_progress, current_position
from datamodules.sampler import EvaluationSampler, TrainingSampler
from datamodules.shards import sha256_of
from datamodules.strategies import PairChoice
from rome_lightning.assets.resolver import cache_folder


@dataclasses.dataclass(frozen=True)
class WeightedManifest:
    """One of several datasets to train on."""

    path: str
    """``manifest.json``, or the folder that holds it; a path or an address."""
    weight: float | None = None
    """Share of the training pairs, relative to the other datasets; null for all datasets: every clip counts
    the same."""


class TalkingHeadDataModule(RomeDataModule):
    """Pairs of frames from one clip, from datasets of ``rome prepare``.

    Args:
        manifest: ``manifest.json`` of the dataset, or the folder that holds it; a path, or an address
            (``https://``, ``s3://``, ``pipe:ssh host cat /data/{}``) whose files are cached.
        manifests: several datasets instead: a list of ``{path: ..., weight: ...}``, or a mapping from path
            to weight. They must have the same head model and stored image size.
        image_size: height and width of the batches in pixels; at most the size stored in the dataset.
        batch_size: sources per step on each device.
        num_driving: target frames per source in training; evaluation always has one.
        pairs_per_epoch: sources per training epoch over all devices. An epoch is a section of an endless
            stream that visits all clips equally often, so it need not match the number of clips.
        pairs_per_clip: consecutive pairs per visit of a clip in training.
        pair_strategy: how the frames of a training pair are chosen: ``random``; ``min_gap``: targets at
            least min_gap_s from the source; ``yaw_balanced``: head angles of a clip equally often.
        min_gap_s: for ``min_gap``, seconds.
        yaw_bin_deg: for ``yaw_balanced``, width of the bins in degrees.
        num_workers: processes per device that read and decode; 0 reads in the training process.
        worker_timeout_s: a worker that takes longer to decode one batch is replaced; fetching does not count.
        seed: seed of the clip order, the frames and the augmentation.
        holdout_ratio: share at the end of each training clip that is held out of training.
        val_split: data of validation: ``val`` (people not in training) or ``seen`` (the held-out end of the
            training clips; needs holdout_ratio > 0).
        test_split: the same for testing.
        eval_pairs_per_clip: evaluation pairs per clip, with evenly spaced targets.
        eval_max_pairs: largest number of pairs in a validation or test; null for no limit. Beyond it, clips
            get fewer pairs, down to one each, and then only evenly spaced clips are used.
        eval_source: source frame of a clip in evaluation: its ``first``, as in most protocols, or its most
            ``typical`` one, whose expression is nearest to the clip's median: no blink and no grimace, like a
            photo that a person would choose.
        augmentation: changes of colour, framing and quality in training; null for none.
        skip_budget: largest share of pairs that may be unreadable before training stops.
        cache_limit_gb: for remote datasets: gigabytes of shards to keep on each machine, over all datasets;
            the least recently used make room for others; null keeps all.
    """

    def __init__(
        self,
        manifest: str | Path | None = None,
        image_size: int = 256,
        batch_size: int = 8,
        num_driving: int = 1,
        pairs_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
        holdout_ratio: float = 0.0,
        val_split: Literal["val", "seen"] = "val",
        test_split: Literal["test", "val", "seen"] = "test",
        eval_pairs_per_clip: int = 8,
        eval_source: Literal["first", "typical"] = "first",
        augmentation: Augmentation | None = None,
        skip_budget: float = 0.001,
        manifests: list[WeightedManifest] | dict[str, float] | None = None,
        pairs_per_clip: int = 1,
        pair_strategy: Literal["random", "min_gap", "yaw_balanced"] = "random",
        min_gap_s: float = 1.0,
        yaw_bin_deg: float = 10.0,
        worker_timeout_s: float = 120.0,
        eval_max_pairs: int | None = 4096,
        cache_limit_gb: float | None = None,
    ) -> None:
        super().__init__(image_size)
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("num_driving", num_driving, 1),
            ("pairs_per_epoch", pairs_per_epoch, 1),
            ("pairs_per_clip", pairs_per_clip, 1),
            ("eval_pairs_per_clip", eval_pairs_per_clip, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}; set data.init_args.{name}")
        for name, limit in (("eval_max_pairs", eval_max_pairs), ("cache_limit_gb", cache_limit_gb)):
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} must be positive or null, got {limit}; set data.init_args.{name}")
        if not 0 <= holdout_ratio < 1:
            raise ValueError(f"holdout_ratio must be in [0, 1), got {holdout_ratio}")
        if worker_timeout_s <= 0:
            raise ValueError(f"worker_timeout_s must be positive, got {worker_timeout_s}")
        self.datasets = _datasets(manifest, manifests)
        self.batch_size = batch_size
        self.num_driving = num_driving
        self.pairs_per_epoch = pairs_per_epoch
        self.pairs_per_clip = pairs_per_clip
        self.choice = PairChoice(pair_strategy, min_gap_s, yaw_bin_deg)
        self.num_workers = num_workers
        self.worker_timeout_s = worker_timeout_s
        self.seed = seed
        self.holdout_ratio = holdout_ratio
        self.val_split = val_split
        self.test_split = test_split
        self.eval_pairs_per_clip = eval_pairs_per_clip
        self.eval_max_pairs = eval_max_pairs
        self.eval_source = eval_source
        self.augmentation = augmentation
        self.skip_budget = skip_budget
        self.cache_limit_gb = cache_limit_gb
        # With fewer evaluation pairs than devices, some devices get none; nothing is padded.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.pairs_read = 0
        """Training pairs delivered on this rank."""
        self.pairs_skipped = 0
        """Pairs that could not be read and were replaced (log key ``data/skipped``)."""
        self.workers_restarted = 0
        """Worker processes that died or hung and were replaced (log key ``data/restarted``)."""
        self._resume: StreamPosition | None = None
        self._loaders: list[PairLoader] = []
        self._manifests: list[Manifest] = []
        self._folders: list[tuple[Path, RemoteFolder | None]] = []
        self._readers: dict[str, JoinedReader] = {}
        self._tables: dict[str, ClipTable] = {}

    @property
    def names(self) -> str:
        """The datasets, for messages."""
        return ", ".join(dataset.path for dataset in self.datasets)

    @property
    def manifests(self) -> list[Manifest]:
        """Manifests of the datasets, read on first use."""
        if not self._manifests:
            opened = [_open(dataset.path, self.cache_limit_gb) for dataset in self.datasets]
            manifests = [manifest for manifest, _, _ in opened]
            _check_alike(manifests, self.datasets)
            if self.image_size > manifests[0].image_size:
                raise ValueError(
                    f"image_size must be at most the stored {manifests[0].image_size}, "
                    f"got {self.image_size}; set data.init_args.image_size or prepare the dataset again"
                )
            self._manifests = manifests
            self._folders = [(folder, remote) for _, folder, remote in opened]
        return self._manifests

    @property
    def dataset_hash(self) -> str:
        """Identifies all training data."""
        hashes = [manifest.hash for manifest in self.manifests]
        if len(hashes) == 1:
            return hashes[0]
        weights = [dataset.weight for dataset in self.datasets]
        return sha256_of(list(zip(hashes, weights, strict=True)))

    def setup(self, stage: str | None = None) -> None:
        """Open the splits, so that a missing one fails here and not in a worker."""
        if stage in (None, "fit"):
            self._training_pairs()
        if stage in (None, "fit", "validate") and (stage == "validate" or self.validates):
            self._evaluation(self.val_split)
        if stage == "test":
            self._evaluation(self.test_split)

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on during training."""
        return self._has(self.val_split)

    def reader(self, split: str) -> JoinedReader:
        """Random access to the clips of ``train``, ``val`` or ``test``."""
        if split not in self._readers:
            manifests = self.manifests
            self._readers[split] = JoinedReader(
                [
                    ClipReader(manifest, folder, split, remote)
                    for manifest, (folder, remote) in zip(manifests, self._folders, strict=True)
                ]
            )
        return self._readers[split]

    def _clips(self, split: str) -> tuple[JoinedReader, ClipTable, ClipTable]:
        """Reader, clips with their training frames, and the held-out frames."""
        reader = self.reader(split)
        if split not in self._tables:
            self._tables[split] = reader.plan_clips()
        kept, held = self._tables[split].held_out(self.holdout_ratio if split == "train" else 0.0)
        return reader, kept, held

    def _training_pairs(self) -> TrainingPairs:
        reader, clips, _ = self._clips("train")
        counts = [len(part) for part in reader.readers]
        if not all(counts):
            path = self.datasets[counts.index(0)].path
            raise ValueError(f"{path} has no training clips; prepare with other splits")
        groups = tuple(
            PlanGroup(count, count if dataset.weight is None else dataset.weight)
            for count, dataset in zip(counts, self.datasets, strict=True)
        )
        plan = TrainingPlan(
            clips, self.seed, self.pairs_per_epoch, self.num_driving,
            groups=groups, pairs_per_clip=self.pairs_per_clip, choice=self.choice,
        )  # fmt: skip
        return TrainingPairs(reader, plan, self.batch_size)

    def _has(self, split: str) -> bool:
        if split == "seen":
            return self.holdout_ratio > 0
        return any(manifest.split(split) for manifest in self.manifests)

    def _evaluation(self, split: str) -> EvaluationPairs:
        seen = split == "seen"
        reader, clips, held = self._clips("train" if seen else split)
        source_of = reader.typical_frame if self.eval_source == "typical" else None
        pairs = EvaluationPlan(
            clips, held if seen else None, self.eval_pairs_per_clip, self.eval_max_pairs, source_of
        )
        if not pairs:
            wanted = "holdout_ratio > 0" if seen else f"a dataset with a {split!r} split, or another split"
            raise ValueError(f"nothing to evaluate on in split {split!r} of {self.names}; set {wanted}")
        return EvaluationPairs(reader, pairs, self.batch_size)

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    @property
    def global_batch(self) -> int:
        """Pairs per step over all ranks."""
        return self.batch_size * self._world()[0]

    def train_dataloader(self) -> PairLoader:
        """Raw training batches; ``on_after_batch_transfer`` makes them ``AvatarBatch``.

        After ``load_state_dict`` the first loader resumes where that state was saved.
        """
        start = self._take_resume()
        sampler = TrainingSampler(
            self.pairs_per_epoch, self.batch_size, *self._world(), start.epoch, start.position
        )
        if sampler.steps == 0:
            raise ValueError(
                f"pairs_per_epoch = {self.pairs_per_epoch} is less than one step of {self.global_batch} "
                "pairs over all devices; set data.init_args.pairs_per_epoch or batch_size"
            )
        if getattr(self.trainer, "overfit_batches", 0):
            sampler.freeze_epoch()
        return self._loader(self._training_pairs(), sampler)

    def _take_resume(self) -> StreamPosition:
        start, self._resume = self._resume, None
        if start is None:
            return StreamPosition(0, 0, self.global_batch)
        if start.position % self.global_batch:
            raise ValueError(
                f"the checkpoint stopped after {start.position} pairs of its epoch, which is not a "
                "multiple of "
                f"{self.global_batch} (batch_size {self.batch_size} x {self._world()[0]} devices); set "
                f"data.init_args.batch_size so that the product divides {start.position}, as "
                f"{start.global_batch} does"
            )
        if self.trainer is not None:
            adopt_progress(self.trainer, start, self.global_batch, self.pairs_per_epoch)
        return start

    def val_dataloader(self) -> PairLoader | list[PairLoader]:
        """Fixed pairs, each once; empty if training runs on a dataset without a validation split."""
        return self._evaluation_loader(self.val_split) if self.validates else []

    def test_dataloader(self) -> PairLoader:
        """Fixed pairs of the test split, each once."""
        return self._evaluation_loader(self.test_split)

    def _evaluation_loader(self, split: str) -> PairLoader:
        pairs = self._evaluation(split)
        return self._loader(pairs, EvaluationSampler(len(pairs), *self._world()))

    def _loader(self, source: PairSource, sampler: TrainingSampler | EvaluationSampler) -> PairLoader:
        loader = PairLoader(
            source, sampler, self.num_workers, self.worker_timeout_s, pin_memory=torch.cuda.is_available()
        )
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the workers."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Decode on the device; other kinds of batches pass through.

        Raises:
            ValueError: more pairs were unreadable than ``skip_budget`` allows.
        """
        if not isinstance(batch, RawBatch):
            return batch
        self.pairs_read += len(batch)
        self.pairs_skipped += batch.skipped
        self.workers_restarted += batch.restarted
        allowed = math.ceil(self.skip_budget * max(self.pairs_read, self.pairs_per_epoch))
        if self.pairs_skipped > allowed:
            raise ValueError(
                f"{self.pairs_skipped} of {self.pairs_read} pairs could not be read (allowed: {allowed}); "
                f"check {self.names} with `rome shards verify`, or raise data.init_args.skip_budget"
            )
        return to_avatar_batch(batch, self.image_size, self.augmentation)

    def _stream_settings(self) -> dict[str, Any]:
        """Everything that determines the pair at a position."""
        return {
            "manifest": self.dataset_hash,
            "seed": self.seed,
            "pairs_per_epoch": self.pairs_per_epoch,
            "num_driving": self.num_driving,
            "holdout_ratio": self.holdout_ratio,
            "pairs_per_clip": self.pairs_per_clip,
            "pair_strategy": self.choice.strategy,
            "min_gap_s": self.choice.min_gap_s,
            "yaw_bin_deg": self.choice.yaw_bin_deg,
        }

    def state_dict(self) -> dict[str, Any]:
        """The data's part of a checkpoint: the definition of the stream and the position in it.

        ``position`` counts pairs of ``epoch`` over all ranks.
        """
        position = StreamPosition(0, 0, self.global_batch)
        if self.trainer is not None:
            position = current_position(self.trainer, self.global_batch)
        return {**self._stream_settings(), **dataclasses.asdict(position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint's position with the next ``train_dataloader``.

        Evaluation may use a checkpoint with other data.

        Raises:
            ValueError: the checkpoint belongs to another stream.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        for name, now in self._stream_settings().items():
            before = state_dict.get(name)
            if before != now:
                raise ValueError(
                    f"the checkpoint was trained with data.init_args.{name} = {_short(before)}, it is now "
                    f"{_short(now)}; a run can only resume with the same data. To start a new run from "
                    "its weights use model.init_args.init_from instead of --ckpt-path"
                )
        self._resume = StreamPosition(*(state_dict[f.name] for f in dataclasses.fields(StreamPosition)))


def _short(value: object) -> str:
    return f"{value:.12}" if isinstance(value, str) else str(value)


def _datasets(
    manifest: str | Path | None, manifests: list[WeightedManifest] | dict[str, float] | None
) -> list[WeightedManifest]:
    """The datasets as a list, from either option."""
    if (manifest is None) == (not manifests):
        raise ValueError("set either data.init_args.manifest or data.init_args.manifests")
    if manifest is not None:
        return [WeightedManifest(str(manifest))]
    assert manifests
    if isinstance(manifests, dict):
        manifests = [WeightedManifest(path, weight) for path, weight in manifests.items()]
    weights = [dataset.weight for dataset in manifests if dataset.weight is not None]
    if weights and (len(weights) < len(manifests) or min(weights) <= 0):
        raise ValueError(
            "give every dataset of data.init_args.manifests a positive weight, or none: "
            + ", ".join(f"{dataset.path}: {dataset.weight}" for dataset in manifests)
        )
    return list(manifests)


def _open(address: str, limit_gb: float | None) -> tuple[Manifest, Path, RemoteFolder | None]:
    """Manifest, folder of the files, and their remote source, if any."""
    if not is_remote(address):
        path = Path(address)
        return Manifest.load(path), path if path.is_dir() else path.parent, None
    manifest, remote = open_remote(
        address, cache_folder() / "datasets", None if limit_gb is None else int(limit_gb * 1e9)
    )
    return manifest, remote.cache, remote


def _check_alike(manifests: Sequence[Manifest], datasets: Sequence[WeightedManifest]) -> None:
    """Batches mix the datasets, so their frames and parameters must match."""
    first = manifests[0]
    for manifest, dataset in zip(manifests, datasets, strict=True):
        for what, ours, theirs in (
            ("image size", first.image_size, manifest.image_size),
            ("head model", first.head, manifest.head),
        ):
            if ours != theirs:
                raise ValueError(
                    f"{dataset.path} has {what} {theirs}, {datasets[0].path} has {ours}; datasets used "
                    "together must be prepared with the same one"
                )
