"""Where a run's numbers go, by the same keys: a table in its folder, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.provenance import CONFIG_KEY, FACTS_KEY

WANDB_ID_FILE = "wandb_id.txt"


def run_loggers(
    run_dir: Path, wandb: Literal["offline", "online", "disabled"], tensorboard: bool, steps_before: int
) -> list[Logger]:
    """The loggers of a training run.

    Args:
        run_dir: folder of the run.
        wandb: where Weights & Biases log to.
        tensorboard: whether to log for TensorBoard.
        steps_before: steps that a resumed run has done; what TensorBoard knows of later ones is dropped.
    """
    # The table comes first: Lightning takes the place of config.yaml from the first logger.
    loggers: list[Logger] = [RunCSVLogger(run_dir)]
    if tensorboard:
        loggers.append(
            TensorBoardLogger(
                run_dir, name="", version="tensorboard", default_hp_metric=False, purge_step=steps_before
            )
        )
    if wandb != "disabled":
        loggers.append(
            RunWandbLogger(
                save_dir=run_dir,
                project="rome_lightning",
                name=run_dir.name,
                offline=wandb == "offline",
                id=_wandb_id(run_dir),
                resume="allow",
                # Offline there is nothing that its messages could tell.
                settings={"silent": wandb == "offline"},
            )
        )
    return loggers


def record_settings(loggers: Sequence[Logger], config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Give Weights & Biases all that determines a run's result; Lightning passes only the model's options.

    Args:
        loggers: of the run.
        config: content of ``config.yaml``.
        facts: what it does not say, such as the hash of the dataset and the commit.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            # Under separate names: Lightning's stay unchanged, and so do those that an agent sets.
            logger.experiment.config.update(
                {CONFIG_KEY: dict(config), FACTS_KEY: dict(facts)}, allow_val_change=True
            )


BEST = {"psnr": "max", "ssim": "max", "csim": "max", "lpips": "min", "l1": "min", "loss": "min"}
"""Which value of a validation metric, by the beginning of its name, W&B's summary keeps; it would keep the
last one, by which sweeps then rank."""


class RunWandbLogger(WandbLogger):
    """Weights & Biases with the best value of each validation metric as its summary."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Lightning hands on an option that W&B has given up, and W&B says so to the user.
        self._wandb_init.pop("anonymous", None)
        self._known: set[str] = set()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; tell W&B at the first of each metric which one to keep."""
        for key in metrics:
            stage, _, name = key.partition("/")
            kept = next((best for start, best in BEST.items() if name.startswith(start)), None)
            if stage == "val" and kept and key not in self._known:
                # By its full name: the pattern that Lightning defines for all keys wins over other patterns.
                self.experiment.define_metric(
                    key, summary=kept, step_metric="trainer/global_step", step_sync=True
                )
                self._known.add(key)
        super().log_metrics(metrics, step)


def _wandb_id(run_dir: Path) -> str:
    """The run's id, kept in its folder, so that a resumed run continues the same record."""
    path = run_dir / WANDB_ID_FILE
    if not path.is_file():
        write_atomic(path, f"{secrets.token_hex(4)}\n")
    return path.read_text().strip()


class RunCSVLogger(CSVLogger):
    """Write ``metrics.csv`` straight into a folder, after the rows that a resumed run finds there.

    Lightning's own logger deletes the file of an earlier part of the run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Writer of the file."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment

    def drop_rows_from(self, step: int) -> None:
        """Remove the rows of a step and of later ones, which a run resumed before them writes again."""
        path = Path(self.log_dir) / _AppendingWriter.NAME_METRICS_FILE
        reader = csv.DictReader(_whole_lines(path))
        if not reader.fieldnames:
            path.unlink(missing_ok=True)
            return
        kept = [row for row in reader if None not in row and row.get("step", "").isdecimal()]
        _write_rows(path, reader.fieldnames, [row for row in kept if int(row["step"]) < step])


def _whole_lines(path: Path) -> list[str]:
    """Lines of a table, less the last one if a killed process did not finish it; none without a file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table that takes the place of the old one when it is complete."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=header)
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


class _AppendingWriter(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        self.metrics_keys = next(csv.reader(_whole_lines(path)), [])
        if not self.metrics_keys:
            # Cut within its header: it has no row yet, and its last column has no name.
            path.unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Give the table further columns; Lightning would write in place."""
        path = Path(self.metrics_file_path)
        _write_rows(path, fieldnames, list(csv.DictReader(_whole_lines(path))))

    def _check_log_dir_exists(self) -> None:
        """Keep what the file holds."""
