"""Run folders as data: settings, scores and learning curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

UNIT_COLUMNS = ("task", "identity", "clip", "source", "frame", "driver_identity")
"""What names a scored pair in ``pairs.parquet``; all other columns but ``FLAG_COLUMNS`` are metrics."""

FLAG_COLUMNS = ("undetected_prediction", "undetected_target", "rotation_deg")
"""Whether a network found no face, and the angle between the tracked heads of source and driver."""

NOT_CONFIGURATION = (
    *(
        "seed_everything",
        "run_dir",
        "wandb",
        "tensorboard",
        "memory_check",
        "ckpt_path",
        "weights_only",
        "config",
    ),
    *("data.init_args.seed", "data.init_args.num_workers", "trainer.default_root_dir", "trainer.logger"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.callbacks"),
)
"""Options, with their nested options, in which runs of one configuration may differ."""


@dataclass(frozen=True)
class RunScores:
    """Scores of one run under one protocol."""

    folder: Path
    summary: dict[str, Any]
    """``summary.json`` of the evaluation."""
    pairs: pd.DataFrame
    """A row per scored pair; NaN where a metric is not defined."""

    @property
    def metrics(self) -> list[str]:
        """Metrics that have a value per pair."""
        return [name for name in self.pairs.columns if name not in (*UNIT_COLUMNS, *FLAG_COLUMNS)]

    def tasks(self) -> list[str]:
        """Tasks in the order of the file."""
        return list(dict.fromkeys(self.pairs["task"]))


@dataclass(frozen=True)
class Run:
    """A run folder; files that do not exist read as empty."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.yaml`` with dotted keys; list items are numbered."""
        path = self.path / "config.yaml"
        return flatten(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json`` of the training."""
        return read_json(self.path / "summary.json")

    @property
    def seed(self) -> int | None:
        """Training seed, if the folder says."""
        seed = self.config.get("seed_everything", self.summary.get("seed"))
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    @cached_property
    def configuration(self) -> str:
        """Equal for runs that differ in their seed only.

        A folder without ``config.yaml``, such as another system's predictions, is a separate configuration,
        and so is one without a recorded seed: other data could be mistaken for other seeds.
        """
        if not self.is_known:
            return str(self.path.resolve())
        # A path does not identify the version of a dataset.
        content = {**settings(self.config), "dataset_hash": self.summary.get("dataset_hash")}
        return json.dumps(content, sort_keys=True, default=str)

    @property
    def is_known(self) -> bool:
        """Whether the folder records the settings and seed of the training."""
        return bool(self.config) and self.seed is not None

    @property
    def title(self) -> str:
        """Name without the seed at its end."""
        return self.name.removesuffix(f"-{self.seed}") if self.seed is not None else self.name

    def protocols(self) -> list[str]:
        """Protocols under which the run was evaluated to the end."""
        return sorted(path.parent.name for path in self.path.glob("evaluation/*/summary.json"))

    def evaluation(self, protocol: str) -> RunScores:
        """Scores under a protocol.

        Raises:
            FileNotFoundError: the run was not evaluated under it.
            ValueError: the file was not written by `rome evaluate`.
        """
        folder = self.path / "evaluation" / protocol
        table, summary = folder / "pairs.parquet", folder / "summary.json"
        if not table.is_file() or not summary.is_file():
            known = ", ".join(self.protocols()) or "none"
            raise FileNotFoundError(
                f"{self.path} has no finished evaluation under {protocol} (finished: {known}); run "
                f"`rome evaluate --protocol ... --checkpoint {self.path}/checkpoints/best.ckpt` first"
            )
        pairs = pd.read_parquet(table)
        missing = [name for name in UNIT_COLUMNS if name not in pairs.columns]
        if missing:
            raise ValueError(f"{table} lacks the columns {', '.join(missing)}; evaluate the run again")
        pairs["driver_identity"] = pairs["driver_identity"].fillna("")
        repeated = int(pairs.duplicated(list(UNIT_COLUMNS)).sum())
        if repeated:
            raise ValueError(f"{table} contains {repeated} pairs twice; delete the folder and evaluate again")
        return RunScores(folder, read_json(summary), pairs)

    def learning_curves(self) -> dict[str, list[tuple[float, float]]]:
        """(step, value) of each series of ``metrics.csv``."""
        return read_curves(self.path / "metrics.csv")


def read_run(path: Path) -> Run:
    """Open a run folder.

    Raises:
        FileNotFoundError: there is no such folder, or it is not a run.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}")
    if not any(
        (path / name).exists() for name in ("config.yaml", "summary.json", "evaluation", "metrics.csv")
    ):
        raise FileNotFoundError(
            f"{path} is not a run folder: it has neither config.yaml, summary.json, metrics.csv nor "
            "evaluation/"
        )
    return Run(path)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON object; empty if there is no such file.

    Raises:
        ValueError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is broken: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should contain a JSON object, but contains a {type(content).__name__}")
    return content


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each series of a CSV of metrics; incomplete rows are skipped."""
    curves: dict[str, list[tuple[float, float]]] = {}
    if not path.is_file():
        return curves
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if key in (None, "step", "epoch") or not value or not row.get("step"):
                    continue
                curves.setdefault(key, []).append((float(row["step"]), float(value)))
    return curves


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted key."""
    if isinstance(content, dict) and content:
        items = content.items()
    elif isinstance(content, list) and content:
        items = enumerate(content)  # type: ignore[assignment]
    else:
        return {prefix.rstrip("."): content}
    return {key: leaf for name, value in items for key, leaf in flatten(value, f"{prefix}{name}.").items()}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a flat configuration that makes runs different experiments."""
    return {
        key: value
        for key, value in config.items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_CONFIGURATION)
    }


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed only."""

    name: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> dict[str, Any]:
        """Flat settings without those that differ between seeds."""
        return settings(self.runs[0].config)


def pool_seeds(runs: Sequence[Run]) -> list[Configuration]:
    """Group runs of one configuration, in order of appearance.

    Raises:
        ValueError: a run is given twice, or two runs of a configuration have the same seed.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.configuration, []).append(run)
    for members in groups.values():
        _refuse_repetition(members)
    names = _distinct_names([members[0] for members in groups.values()])
    return [Configuration(name, tuple(members)) for name, members in zip(names, groups.values(), strict=True)]


def _refuse_repetition(runs: list[Run]) -> None:
    seeds: dict[int, Run] = {}
    for run in runs:
        if run.seed is None:
            continue
        other = seeds.setdefault(run.seed, run)
        if other is not run:
            raise ValueError(
                f"{other.path} and {run.path} are the same configuration with the same seed {run.seed}: a "
                "repetition says nothing about other seeds; omit one"
            )


def _distinct_names(runs: list[Run]) -> list[str]:
    """The shortest of title, name and path that tells the configurations apart."""
    for names in (
        [run.title for run in runs],
        [run.name for run in runs],
        [f"{run.path.resolve().parent.name}/{run.name}" for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def config_difference(configurations: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Settings in which the configurations differ: the value of each, None where it has none."""
    configs = [configuration.config for configuration in configurations]
    keys = sorted({key for config in configs for key in config})
    rows = {key: [config.get(key) for config in configs] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}
