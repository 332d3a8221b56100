"""The metrics file of a run folder."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


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
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            # A row that a killed process left unfinished lacks columns.
            kept = [row for row in reader if None not in row.values() and int(row["step"]) < step]
            header = reader.fieldnames or []
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=header)
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(path)


class _AppendingWriter(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _check_log_dir_exists(self) -> None:
        """What is there stays."""
