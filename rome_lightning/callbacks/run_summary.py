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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start_s = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, atomically."""
        if not trainer.is_global_zero:
            return
        manifest = getattr(getattr(trainer, "datamodule", None), "manifest", None)
        checkpoint = trainer.checkpoint_callback
        summary: dict[str, Any] = {
            "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
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
