"""Batches of real talking heads for training and evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.codec import CorruptDataError, select_frames
from datamodules.manifest import Manifest
from datamodules.plan import Pair, PlanClip, TrainingPlan, evaluation_pairs, split_holdout
from datamodules.reading import ClipReader, FrameImages
from datamodules.resuming import StreamPosition, adopt_progress, current_position
from datamodules.sampler import EvaluationSampler, TrainingSampler
from rome_lightning.data import AvatarBatch, Frames, HeadParams
from rome_lightning.data.datamodule import RomeDataModule
from rome_lightning.data.struct import TensorStruct

_ATTEMPTS_PER_CLIP = 4
_CLIPS_PER_SAMPLE = 16
"""After so many unreadable clips in a row the dataset is broken, not just damaged."""


@dataclass(frozen=True)
class ColourJitter:
    """Largest changes of colour; one random change is shared by the frames of a pair.

    Mirroring is left out on purpose: it would have to mirror parameters and landmarks too.
    """

    brightness: float = 0.0
    """Largest relative change of brightness, 0.2 for 0.8 to 1.2."""
    contrast: float = 0.0
    """Largest relative change of contrast about middle grey."""
    saturation: float = 0.0
    """Largest relative change of saturation."""
    hue: float = 0.0
    """Largest turn of the hue, as a fraction of a full turn."""


@dataclass(frozen=True)
class RawFrames(TensorStruct):
    """Frames as stored: they cross the worker queue in bytes and become floats on the device."""

    image: UInt8[Tensor, "b h w 3"]
    matte: UInt8[Tensor, "b h w"]
    regions: UInt8[Tensor, "b h w"]
    landmarks: Float[Tensor, "b l 2"]
    params: HeadParams

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class RawBatch(TensorStruct):
    """An ``AvatarBatch`` before it is decoded to floats."""

    source: RawFrames
    target: RawFrames
    clips: tuple[str, ...]
    jitter: Float[Tensor, "b 4"] | None
    """Uniform in [-1, 1]; None if nothing is to be augmented."""
    skipped: int
    """Pairs that could not be read and were replaced."""

    def __len__(self) -> int:
        return len(self.source)


def colour_matrix(
    jitter: Float[Tensor, "b 4"], settings: ColourJitter
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """The affine colour change (matrix, shift) of each pair.

    Hue and saturation turn and scale the plane of chrominance (YIQ), so that grey stays grey.
    """
    limits = [settings.brightness, settings.contrast, settings.saturation, settings.hue]
    change = jitter * jitter.new_tensor(limits)
    brightness, contrast, saturation = (1 + change[:, :3]).unbind(1)
    angle = 2 * math.pi * change[:, 3]
    to_yiq = jitter.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cosine, sine = saturation * angle.cos(), saturation * angle.sin()
    turn = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], 1).unflatten(1, (3, 3))
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    # Contrast about 1/2 after brightness: x -> c (b x - 1/2) + 1/2.
    matrix = matrix * (brightness * contrast)[:, None, None]
    shift = ((1 - contrast) / 2)[:, None].expand(-1, 3)
    return matrix, shift


def to_frames(
    raw: RawFrames,
    image_size: int,
    colour: tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]] | None = None,
) -> Frames:
    """Bytes to floats at the wanted size, on the device where they are.

    Args:
        raw: as stored.
        image_size: at most the stored size; smaller images are anti-aliased.
        colour: affine colour change of each frame.
    """
    image = raw.image.permute(0, 3, 1, 2).float() / 255
    mask = raw.matte[:, None].float() / 255
    frames = Frames(image, mask, raw.regions, raw.landmarks, raw.params).resized(image_size)
    if colour is None:
        return frames
    matrix, shift = colour
    image = torch.einsum("bij,bjhw->bihw", matrix, frames.image) + shift[:, :, None, None]
    return dataclasses.replace(frames, image=image.clamp(0, 1))


def to_avatar_batch(raw: RawBatch, image_size: int, augmentation: ColourJitter | None = None) -> AvatarBatch:
    """Decode a raw batch; source and targets of a pair get the same colour change."""
    source_colour = target_colour = None
    if augmentation is not None and raw.jitter is not None:
        matrix, shift = colour_matrix(raw.jitter, augmentation)
        repeats = len(raw.target) // len(raw.source)
        source_colour = (matrix, shift)
        target_colour = (matrix.repeat_interleave(repeats, 0), shift.repeat_interleave(repeats, 0))
    return AvatarBatch(
        to_frames(raw.source, image_size, source_colour),
        to_frames(raw.target, image_size, target_colour),
        raw.clips,
    )


@dataclass(frozen=True)
class Sample:
    """One decoded pair: the source, then its targets."""

    images: list[FrameImages]
    arrays: dict[str, np.ndarray]
    clip: str
    jitter: tuple[float, ...] | None
    skipped: int


def _read(reader: ClipReader, pair: Pair) -> Sample:
    frames = (pair.source, *pair.drivers)
    arrays, _ = reader.meta(pair.clip)
    images = [reader.frame(pair.clip, frame) for frame in frames]
    return Sample(images, select_frames(arrays, frames), reader.key(pair.clip), None, 0)


class TrainingPairs(Dataset[Sample]):
    """Pairs of a training plan by (epoch, position).

    A pair that cannot be read is replaced: by other frames of the clip, then by the next clip.
    """

    def __init__(self, reader: ClipReader, plan: TrainingPlan, jitter: bool = False) -> None:
        self.reader, self.plan, self.jitter = reader, plan, jitter

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, position = place
        skipped, error = 0, None
        for offset in range(_CLIPS_PER_SAMPLE):
            for attempt in range(_ATTEMPTS_PER_CLIP):
                pair = self.plan.pair(epoch, position + offset, attempt)
                try:
                    sample = _read(self.reader, pair)
                except CorruptDataError as failure:
                    skipped, error = skipped + 1, failure
                    continue
                return Sample(
                    sample.images, sample.arrays, sample.clip, pair.jitter if self.jitter else None, skipped
                )
        raise CorruptDataError(f"{_CLIPS_PER_SAMPLE} clips in a row cannot be read, at last: {error}")


class EvaluationPairs(Dataset[Sample]):
    """A fixed list of pairs; one that cannot be read is an error, since replacing it would change scores."""

    def __init__(self, reader: ClipReader, pairs: Sequence[Pair]) -> None:
        self.reader, self.pairs = reader, list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        return _read(self.reader, self.pairs[place[1]])


def collate(samples: Sequence[Sample]) -> RawBatch:
    """Stack samples with equally many targets."""

    def frames(items: list[tuple[Sample, int]]) -> RawFrames:
        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([s.arrays[name][i] for s, i in items]))

        def pixels(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(s.images[i], name) for s, i in items]))

        params = HeadParams.from_packed(*(stacked(n) for n in ("shape", "expression", "pose", "camera")))
        return RawFrames(pixels("image"), pixels("matte"), pixels("regions"), stacked("landmarks"), params)

    jitter = [s.jitter for s in samples if s.jitter is not None]
    return RawBatch(
        source=frames([(s, 0) for s in samples]),
        target=frames([(s, i) for s in samples for i in range(1, len(s.images))]),
        clips=tuple(s.clip for s in samples),
        jitter=torch.tensor(jitter) if jitter else None,
        skipped=sum(s.skipped for s in samples),
    )


def _typical_frame(reader: ClipReader, clip: int, frames: Sequence[int]) -> int:
    """The frame whose expression is nearest to the median of the clip, in L1."""
    arrays, _ = reader.meta(clip)
    expression = select_frames(arrays, frames)["expression"]
    distance = np.abs(expression - np.median(expression, axis=0)).sum(axis=1)
    return frames[int(distance.argmin())]


class TalkingHeadDataModule(RomeDataModule):
    """Pairs of frames of one clip from a dataset that ``rome prepare`` made.

    Args:
        manifest: ``manifest.json`` of the dataset, or the folder that holds it.
        image_size: height and width of the batches in pixels; at most the size stored in the dataset.
        batch_size: sources per step on each device.
        num_driving: target frames per source in training; evaluation always has one.
        pairs_per_epoch: sources per training epoch over all devices. An epoch is a stretch of an endless
            stream that visits all clips equally often, so it need not match the number of clips.
        num_workers: processes per device that read and decode; 0 reads in the training process.
        seed: of the order of clips, the choice of frames and the augmentation.
        holdout_ratio: share of each training clip, at its end, that is kept out of training.
        val_split: what validation sees: ``val`` (other people than in training) or ``seen`` (the held-out
            end of the training clips; needs holdout_ratio > 0).
        test_split: the same for testing.
        eval_pairs_per_clip: evaluation pairs per clip, with evenly spaced targets.
        eval_source: source frame of a clip in evaluation: its ``first``, as most protocols have it, or its
            most ``typical`` one, whose expression is nearest to the clip's median: no blink, no grimace,
            as a person would choose a photo.
        augmentation: colour changes in training; null for none.
        skip_budget: largest share of pairs that may be unreadable before training stops.
    """

    def __init__(
        self,
        manifest: Path,
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
        augmentation: ColourJitter | None = None,
        skip_budget: float = 0.001,
    ) -> None:
        super().__init__(image_size)
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("num_driving", num_driving, 1),
            ("pairs_per_epoch", pairs_per_epoch, 1),
            ("eval_pairs_per_clip", eval_pairs_per_clip, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}; set data.init_args.{name}")
        if not 0 <= holdout_ratio < 1:
            raise ValueError(f"holdout_ratio must be in [0, 1), got {holdout_ratio}")
        self.manifest_path = Path(manifest)
        self.batch_size = batch_size
        self.num_driving = num_driving
        self.pairs_per_epoch = pairs_per_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.holdout_ratio = holdout_ratio
        self.val_split = val_split
        self.test_split = test_split
        self.eval_pairs_per_clip = eval_pairs_per_clip
        self.eval_source = eval_source
        self.augmentation = augmentation
        self.skip_budget = skip_budget
        self.pairs_read = 0
        """Training pairs delivered on this rank."""
        self.pairs_skipped = 0
        """Pairs that could not be read and were replaced (log key ``data/skipped``)."""
        self._resume: StreamPosition | None = None
        self._manifest: Manifest | None = None
        self._readers: dict[str, ClipReader] = {}

    @property
    def manifest(self) -> Manifest:
        """The dataset's manifest, read on first use."""
        if self._manifest is None:
            self._manifest = Manifest.load(self.manifest_path)
            if self.image_size > self._manifest.image_size:
                raise ValueError(
                    f"image_size must be at most the stored {self._manifest.image_size}, "
                    f"got {self.image_size}; set data.init_args.image_size or prepare the dataset again"
                )
        return self._manifest

    def setup(self, stage: str | None = None) -> None:
        """Open the splits and fail here, not in a worker, if one is missing."""
        if stage in (None, "fit"):
            self._training_plan()
        if stage in (None, "fit", "validate") and (stage == "validate" or self._has(self.val_split)):
            self._evaluation(self.val_split)
        if stage == "test":
            self._evaluation(self.test_split)

    def reader(self, split: str) -> ClipReader:
        """Random access to the clips of ``train``, ``val`` or ``test``."""
        if split not in self._readers:
            path = self.manifest_path
            folder = path if path.is_dir() else path.parent
            self._readers[split] = ClipReader(self.manifest, folder, split)
        return self._readers[split]

    def _clips(self, split: str) -> tuple[ClipReader, list[PlanClip], list[tuple[int, ...]]]:
        """Reader, clips with the frames open to training, and the frames held out of it."""
        reader = self.reader(split)
        clips, held = [], []
        for clip in reader.plan_clips():
            kept, rest = split_holdout(clip.frames, self.holdout_ratio if split == "train" else 0.0)
            clips.append(PlanClip(clip.shard, kept))
            held.append(rest)
        return reader, clips, held

    def _training_plan(self) -> tuple[ClipReader, TrainingPlan]:
        reader, clips, _ = self._clips("train")
        if not clips:
            raise ValueError(f"{self.manifest_path} has no training clips; prepare with other splits")
        return reader, TrainingPlan(tuple(clips), self.seed, self.pairs_per_epoch, self.num_driving)

    def _has(self, split: str) -> bool:
        if split == "seen":
            return self.holdout_ratio > 0
        return bool(self.manifest.split(split))

    def _evaluation(self, split: str) -> EvaluationPairs:
        seen = split == "seen"
        reader, clips, held = self._clips("train" if seen else split)
        targets = held if seen else [clip.frames for clip in clips]
        sources = None
        if self.eval_source == "typical":
            sources = [_typical_frame(reader, index, clip.frames) for index, clip in enumerate(clips)]
        pairs = evaluation_pairs(clips, targets, self.eval_pairs_per_clip, sources)
        if not pairs:
            wanted = "holdout_ratio > 0" if seen else f"a dataset with a {split!r} split, or another split"
            raise ValueError(
                f"nothing to evaluate on in split {split!r} of {self.manifest_path}; set {wanted}"
            )
        return EvaluationPairs(reader, pairs)

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    @property
    def global_batch(self) -> int:
        """Pairs per step over all ranks."""
        return self.batch_size * self._world()[0]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Raw training batches; ``on_after_batch_transfer`` makes them ``AvatarBatch``.

        After ``load_state_dict`` the first loader goes on where that state was saved.
        """
        reader, plan = self._training_plan()
        dataset = TrainingPairs(reader, plan, jitter=self.augmentation is not None)
        start = self._take_resume()
        sampler = TrainingSampler(
            self.pairs_per_epoch, self.batch_size, *self._world(), start.epoch, start.position
        )
        if sampler.steps == 0:
            raise ValueError(
                f"pairs_per_epoch = {self.pairs_per_epoch} gives no step of {self.global_batch} pairs over "
                "all devices; set data.init_args.pairs_per_epoch or batch_size"
            )
        return self._loader(dataset, sampler)

    def _take_resume(self) -> StreamPosition:
        start, self._resume = self._resume, None
        if start is None:
            return StreamPosition(0, 0, self.global_batch)
        if start.position % self.global_batch:
            raise ValueError(
                f"the checkpoint stopped after {start.position} pairs of its epoch, which is no multiple of "
                f"{self.global_batch} (batch_size {self.batch_size} x {self._world()[0]} devices); set "
                f"data.init_args.batch_size so that the product divides {start.position}, as "
                f"{start.global_batch} does"
            )
        if self.trainer is not None:
            adopt_progress(self.trainer, start, self.global_batch, self.pairs_per_epoch)
        return start

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Fixed pairs, each once; empty if training runs on a dataset without a validation split."""
        return self._evaluation_loader(self.val_split) if self._has(self.val_split) else []

    def test_dataloader(self) -> DataLoader[Sample]:
        """Fixed pairs of the test split, each once."""
        return self._evaluation_loader(self.test_split)

    def _evaluation_loader(self, split: str) -> DataLoader[Sample]:
        dataset = self._evaluation(split)
        return self._loader(dataset, EvaluationSampler(len(dataset), *self._world()))

    def _loader(self, dataset: Dataset[Sample], sampler: Any) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Decode on the device; other kinds of batches pass through.

        Raises:
            ValueError: more pairs were unreadable than ``skip_budget`` allows.
        """
        if not isinstance(batch, RawBatch):
            return batch
        self.pairs_read += len(batch)
        self.pairs_skipped += batch.skipped
        allowed = math.ceil(self.skip_budget * max(self.pairs_read, self.pairs_per_epoch))
        if self.pairs_skipped > allowed:
            raise ValueError(
                f"{self.pairs_skipped} of {self.pairs_read} pairs could not be read (allowed: {allowed}); "
                f"check the shards beside {self.manifest_path} or raise data.init_args.skip_budget"
            )
        return to_avatar_batch(batch, self.image_size, self.augmentation)

    def _stream_settings(self) -> dict[str, Any]:
        """All that decides which pair is at a position."""
        return {
            "manifest": self.manifest.hash,
            "seed": self.seed,
            "pairs_per_epoch": self.pairs_per_epoch,
            "num_driving": self.num_driving,
            "holdout_ratio": self.holdout_ratio,
        }

    def state_dict(self) -> dict[str, Any]:
        """The data's part of a checkpoint: what the stream is made of and how far it was read.

        ``position`` counts pairs of ``epoch`` over all ranks.
        """
        position = StreamPosition(0, 0, self.global_batch)
        if self.trainer is not None:
            position = current_position(self.trainer, self.global_batch)
        return {**self._stream_settings(), **dataclasses.asdict(position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's position with the next ``train_dataloader``.

        Evaluation is free to use a checkpoint on other data.

        Raises:
            ValueError: the stream of the checkpoint was another one.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        for name, now in self._stream_settings().items():
            before = state_dict.get(name)
            if before != now:
                raise ValueError(
                    f"the checkpoint was trained with data.init_args.{name} = {_short(before)}, it is now "
                    f"{_short(now)}; a run can only go on with the same data. To start another one from its "
                    "weights use model.init_args.init_from instead of --ckpt_path"
                )
        self._resume = StreamPosition(*(state_dict[f.name] for f in dataclasses.fields(StreamPosition)))


def _short(value: object) -> str:
    return f"{value:.12}" if isinstance(value, str) else str(value)
