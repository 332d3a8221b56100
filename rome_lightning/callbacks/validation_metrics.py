"""The metrics of ``rome evaluate`` on the validation split while training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from rome_lightning.evaluation.metric_table import result_name, spec_of
from rome_lightning.evaluation.protocol import DatasetRule, Protocol, Task
from rome_lightning.evaluation.scoring import Scorer, Scores
from rome_lightning.media.image import to_uint8, write_png
from rome_lightning.report.pictures import comparison_rows
from rome_lightning.training.base import RomeModule
from rome_lightning.training.finite import finite_part
from rome_lightning.types import AvatarBatch, Frames

SELF_METRICS = (
    "psnr/masked",
    "csim_sface",
    "akd_mediapipe478",
    "aed_expression_mediapipe",
    "apd_rotation_deg",
)
CROSS_METRICS = ("csim_sface", "aed_expression_mediapipe", "apd_rotation_deg")


class ValidationMetrics(Callback):
    """Score self- and cross-reenactment after each validation, with the code of ``rome evaluate``.

    Logs ``val/<metric>`` (self) and ``val/<metric>_cross``, with ``/`` in a metric's name as ``_``, so that
    ``RunCheckpoint`` can select by any of them; ``val/undetected`` and ``val/undetected_cross`` are the
    shares of drawn frames without a face. Means are over frames, exact over devices. In cross-reenactment the
    source of each clip is driven by frames of the next clip of another video, in sorted order; the grid of
    them goes to ``images/cross_step_*.png``. Avatars are as the network gives them, without the refinement to
    the photograph.

    Args:
        self_metrics: names as protocols have them.
        cross_metrics: the same for cross-reenactment; empty for none.
        every_n_epochs: epochs between two scorings; others keep the last values out of the log.
        max_clips: clips in cross-reenactment.
        frames_per_clip: driver frames of each.
    """

    def __init__(
        self,
        self_metrics: Sequence[str] = SELF_METRICS,
        cross_metrics: Sequence[str] = CROSS_METRICS,
        every_n_epochs: int = 1,
        max_clips: int = 8,
        frames_per_clip: int = 2,
    ) -> None:
        super().__init__()
        for kind, names in (("self", self_metrics), ("cross", cross_metrics)):
            for name in names:
                spec = spec_of(name)
                if kind not in spec.tasks or not spec.per_frame or name == "mask_iou":
                    raise ValueError(f"{name} cannot be scored in {kind}-reenactment during training")
        self.self_metrics, self.cross_metrics = list(self_metrics), list(cross_metrics)
        self.every_n_epochs = every_n_epochs
        self.max_clips, self.frames_per_clip = max_clips, frames_per_clip
        self._scorer: Scorer | None = None
        self._sums: dict[str, list[float]] = {}
        self._clips: dict[str, tuple[Frames, list[Frames]]] = {}

    def _active(self, trainer: Trainer) -> bool:
        return not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the previous epoch, and load the networks on first use."""
        self._sums, self._clips = {}, {}
        if self._scorer is None and self._active(trainer):
            tasks = {"self": Task(self.self_metrics)}
            if self.cross_metrics:
                tasks["cross"] = Task(self.cross_metrics)
            data = DatasetRule("validation split", "", "")
            size = cast(RomeModule, pl_module).image_size
            protocol = Protocol("validation", 1, "", data, tasks, resolution=size)
            self._scorer = Scorer(protocol, pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: AvatarBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the pairs of a batch, and keep a few frames of each clip for cross-reenactment."""
        if not self._active(trainer):
            return
        batch = finite_part(batch)
        source = batch.source.repeat_interleave(batch.num_driving)
        self._score(pl_module, "self", AvatarBatch(source, batch.target))
        for index, clip in enumerate(batch.clips):
            if clip not in self._clips and len(self._clips) >= self.max_clips:
                continue
            driver = batch.target[slice(index * batch.num_driving, index * batch.num_driving + 1)].to("cpu")
            known = self._clips.setdefault(clip, (batch.source[slice(index, index + 1)].to("cpu"), []))
            if len(known[1]) < self.frames_per_clip:
                known[1].append(driver)

    @torch.no_grad()
    def _score(self, pl_module: LightningModule, task: str, pairs: AvatarBatch) -> torch.Tensor:
        """Add the values of pairs with one target per source; gives rows for the grid."""
        assert self._scorer is not None
        rendered = cast(RomeModule, pl_module).reproduce(pairs, 1.0)
        image = (rendered.image.detach().float().clamp(0, 1).cpu() * 255).round() / 255
        present = rendered.image.isfinite().flatten(1).all(1).cpu()
        keys = [str(index) for index in range(len(pairs.target))]
        source = self._scorer.real(pairs.source.to("cpu"), [f"source {k}" for k in keys])
        driver = self._scorer.real(pairs.target.to("cpu"), [f"driver {k}" for k in keys])
        self._scorer.forget()
        self._add(task, self._scorer.score(task, image, present, source, driver))
        return comparison_rows(pairs.source, pairs.target, rendered).cpu()

    def _add(self, task: str, scores: Scores) -> None:
        suffix = "_cross" if task == "cross" else ""
        unseen = scores.undetected_prediction
        columns = {
            f"undetected{suffix}": unseen.float(),
            **{f"{n}{suffix}": v for n, v in scores.values.items()},
        }
        for name, values in columns.items():
            finite = values[values.isfinite()].double()
            total = self._sums.setdefault(name.replace("/", "_"), [0.0, 0.0])
            total[0] += float(finite.sum())
            total[1] += len(finite)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cross-reenactment, means over devices, logs and the grid."""
        if not self._active(trainer):
            return
        if self.cross_metrics:
            self._cross(trainer, pl_module)
        names = self._names()
        sums = torch.tensor([self._sums.get(name, [0.0, 0.0]) for name in names], dtype=torch.float64)
        sums = trainer.strategy.reduce(sums.to(pl_module.device), reduce_op="sum")
        for name, (total, count) in zip(names, sums.tolist(), strict=True):
            if count:
                pl_module.log(f"val/{name}", total / count, rank_zero_only=False)

    def _names(self) -> list[str]:
        """Keys in an order that all devices share."""
        assert self._scorer is not None
        size = self._scorer.protocol.resolution
        own = [result_name(name, size) for name in self.self_metrics]
        cross = [f"{result_name(name, size)}_cross" for name in self.cross_metrics]
        return sorted(name.replace("/", "_") for name in (*own, *cross, "undetected", "undetected_cross"))

    def _cross(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clips = self._gathered(trainer)
        names = sorted(clips)[: self.max_clips]
        rows = []
        for place, clip in enumerate(names):
            driver = next(
                (n for n in (*names[place + 1 :], *names[:place]) if _video(n) != _video(clip)), None
            )
            if driver is None or place % trainer.world_size != trainer.global_rank:
                continue
            frames = Frames.cat(clips[driver][1]).to(pl_module.device)
            source = clips[clip][0].repeat_interleave(len(frames)).to(pl_module.device)
            rows.append(self._score(pl_module, "cross", AvatarBatch(source, frames))[0])
        if rows and trainer.is_global_zero:
            picture = to_uint8(torch.cat(rows, dim=1))
            folder = Path(trainer.default_root_dir) / "images"
            write_png(folder / f"cross_step_{trainer.global_step:07d}.png", picture)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image("val/cross_images", [picture], step=trainer.global_step)

    def _gathered(self, trainer: Trainer) -> dict[str, tuple[Frames, list[Frames]]]:
        """Clips of all devices; the first device's frames of each."""
        if trainer.world_size == 1:
            return self._clips
        everything: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everything, self._clips)
        merged: dict[str, tuple[Frames, list[Frames]]] = {}
        for clips in everything:
            for clip, frames in clips.items():
                merged.setdefault(clip, frames)
        return merged


def _video(clip: str) -> str:
    """The video that a clip was cut from: clips of ``rome prepare`` end in a number of three digits."""
    return re.sub(r"-\d{3}$", "", clip)
