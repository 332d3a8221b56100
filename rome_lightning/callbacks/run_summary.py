"""The facts of a run in one small file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from torchmetrics import Metric

from rome_lightning.assets import used_licences
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.provenance import code_and_versions
from rome_lightning.training.base import RomeModule


class RunSummary(Callback):
    """Write ``summary.json`` into the run folder: metrics, seed, code, versions, data, licences, time.

    Written at the start and after each validation, so that a killed run has one, and at the end. W&B gets
    the best value of each metric as its summary, where it would keep the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self._start_s = time.monotonic()
        self._earlier_s = 0.0
        self._best: dict[str, float] | None = None
        self._best_of_each: dict[str, dict[str, float]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start_s = time.monotonic()
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                for name, is_higher_better in _directions(pl_module).items():
                    logger.experiment.define_metric(
                        f"val/{name}", summary="max" if is_higher_better else "min"
                    )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the facts that are known; a resumed run has them."""
        if not _path(trainer).is_file():
            self._write(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of the best validation so far, by the checkpoint's monitor."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        for name, is_higher_better in _directions(pl_module).items():
            self._note_best(f"val/{name}", is_higher_better, metrics, trainer.global_step)
        checkpoint = trainer.checkpoint_callback
        monitor = getattr(checkpoint, "monitor", None)
        if monitor in metrics:
            sign = 1 if getattr(checkpoint, "mode", "min") == "min" else -1
            if self._best is None or sign * metrics[monitor] < sign * self._best[monitor]:
                self._best = metrics
        self._write(trainer, pl_module)

    def _note_best(self, key: str, is_higher_better: bool, metrics: dict[str, float], step: int) -> None:
        if key not in metrics:
            return
        before = self._best_of_each.get(key)
        sign = -1 if is_higher_better else 1
        if before is None or sign * metrics[key] < sign * before["value"]:
            self._best_of_each[key] = {"value": metrics[key], "step": step}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"best": self._best, "best_of_each": self._best_of_each, "wall_time_s": self._wall_time_s()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._best = state_dict["best"]
        self._best_of_each = state_dict.get("best_of_each", {})
        self._earlier_s = state_dict.get("wall_time_s", 0.0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self._write(trainer, pl_module, finished=True)

    def _wall_time_s(self) -> float:
        """Wall time of all parts of the run, without time lost in a kill."""
        return round(self._earlier_s + time.monotonic() - self._start_s, 1)

    def _write(self, trainer: Trainer, pl_module: LightningModule, finished: bool = False) -> None:
        if not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        last = {key: float(value) for key, value in trainer.callback_metrics.items()}
        summary: dict[str, Any] = {
            "metrics": self._best or last,
            "last_metrics": last,
            "best_of_each": self._best_of_each,
            "finished": finished,
            "steps": trainer.global_step,
            "best_checkpoint": getattr(trainer.checkpoint_callback, "best_model_path", "") or None,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", -1)),
            "dataset_hash": getattr(data, "dataset_hash", None),
            "dataset_licences": sorted({m.licence for m in getattr(data, "manifests", []) if m.licence}),
            "device": str(pl_module.device),
            "num_processes": trainer.world_size,
            "wall_time_s": self._wall_time_s(),
            "head_licence": cast(RomeModule, pl_module).avatar.head.licence,
            "asset_licences": used_licences(),
            **code_and_versions(),
        }
        write_atomic(_path(trainer), json.dumps(summary, indent=2) + "\n")


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "summary.json"


def _directions(module: LightningModule) -> dict[str, bool]:
    """Whether larger is better, by the name of each metric of a module."""
    metrics = {name: part for name, part in module.named_children() if isinstance(part, Metric)}
    return {name: m.higher_is_better for name, m in metrics.items() if m.higher_is_better is not None}
