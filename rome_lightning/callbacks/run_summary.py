"""The facts of a run in one small file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import rome_lightning
from rome_lightning.training.base import RomeModule


class RunSummary(Callback):
    """Write ``summary.json`` into the run folder: metrics, seed, code, versions, data, licences, time."""

    def __init__(self) -> None:
        super().__init__()
        self._start_s = time.monotonic()
        self._best: dict[str, float] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start_s = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of the best validation so far, by the checkpoint's monitor."""
        checkpoint = trainer.checkpoint_callback
        monitor = getattr(checkpoint, "monitor", None)
        if trainer.sanity_checking or monitor is None or monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[monitor])
        sign = 1 if getattr(checkpoint, "mode", "min") == "min" else -1
        if self._best is None or sign * score < sign * self._best[monitor]:
            self._best = {key: float(value) for key, value in trainer.callback_metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._best = state_dict["best"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, atomically."""
        if not trainer.is_global_zero:
            return
        manifest = getattr(getattr(trainer, "datamodule", None), "manifest", None)
        checkpoint = trainer.checkpoint_callback
        last = {key: float(value) for key, value in trainer.callback_metrics.items()}
        summary: dict[str, Any] = {
            "metrics": self._best or last,
            "last_metrics": last,
            "steps": trainer.global_step,
            "best_checkpoint": getattr(checkpoint, "best_model_path", "") or None,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", -1)),
            "dataset_hash": getattr(manifest, "hash", None),
            "device": str(pl_module.device),
            "wall_time_s": round(time.monotonic() - self._start_s, 1),
            "head_licence": cast(RomeModule, pl_module).avatar.head.licence,
            **code_and_versions(),
        }
        path = Path(trainer.default_root_dir) / "summary.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(path)


def code_and_versions() -> dict[str, Any]:
    """Package version, git commit (with ``-dirty``) if run from a clone, and library versions."""
    root = Path(rome_lightning.__file__).parent.parent
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "rome_lightning": rome_lightning.__version__,
        "git_commit": described.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "lightning", "torchmetrics", "mediapipe")},
    }
