"""Runs of a Weights & Biases project as run folders, so that all tools for folders can read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from rome_lightning.comparison.offline_runs import find_record, read_record
from rome_lightning.comparison.runs import Run, read_run
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.escaping import csv_cell, file_name
from rome_lightning.media.provenance import CONFIG_KEY, FACTS_KEY

_WANTED_FILES = ("config.yaml", "pairs.parquet", "summary.json", ".png")
_COPY = "rome"
"""Folder, among a run's files on the server, that holds a copy of its run folder."""


def fetch_runs(project: str, names: Sequence[str], folder: Path | None = None, api: Any = None) -> list[Run]:
    """Download runs into folders.

    Content uploaded under ``rome/`` (see ``upload_run``) is used unchanged; without it, settings, summary
    and history of the server become ``config.yaml``, ``summary.json`` and ``metrics.csv``.

    Args:
        project: ``entity/project`` or ``project``.
        names: names or ids of runs; all finished runs of the project if empty.
        folder: to write to (default: ``runs/wandb/<project>``).
        api: stands in for ``wandb.Api()``.

    Raises:
        ValueError: a name is unknown or not unique.
    """
    if api is None:
        import wandb

        api = wandb.Api()
    folder = folder or Path("runs") / "wandb" / file_name(project)
    found = list(api.runs(project))
    if not names:
        chosen = [run for run in found if run.state == "finished"]
    else:
        chosen = [_named(found, name, project) for name in names]
    return [_download(run, folder / f"{file_name(str(run.name))}-{file_name(str(run.id))}") for run in chosen]


def _named(runs: Sequence[Any], name: str, project: str) -> Any:
    matching = [run for run in runs if name in (run.name, run.id)]
    if len(matching) != 1:
        known = ", ".join(f"{run.name} ({run.id})" for run in runs) or "none"
        problem = "several runs are" if matching else "no run is"
        raise ValueError(f"{problem} called {name!r} in {project}; there are {known}")
    return matching[0]


def _download(run: Any, folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    uploaded = set()
    for file in run.files():
        inner = PurePosixPath(file.name)
        if _is_wanted(inner):
            target = folder / Path(*inner.parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            # The server's file keeps its path below the root that it is given.
            file.download(root=str(folder / ".files"), replace=True)
            (folder / ".files" / inner).replace(target)
            uploaded.add(target)
    _write_record(run, folder, uploaded)
    return Run(folder)


def open_run(path: Path) -> Run:
    """Open a run folder, or a W&B folder (``offline-run-*``) inside one or on its own.

    On its own, its settings, summary and history become ``config.yaml``, ``summary.json`` and ``metrics.csv``
    in
    its folder ``rome``.

    Raises:
        FileNotFoundError: there is no such folder, or it is no run.
        ValueError: W&B's record is damaged.
    """
    record = find_record(path)
    if record is None:
        return read_run(path)
    path = path.resolve()
    if path.parent.name == "wandb" and (path.parents[1] / "config.yaml").is_file():
        return read_run(path.parents[1])
    folder = path / _COPY
    _write_record(read_record(record), folder)
    return Run(folder)


def _is_wanted(inner: PurePosixPath) -> bool:
    """Whether a file of the server belongs to the copy of a run folder; its name becomes a path."""
    safe = all(part == file_name(part) for part in inner.parts)
    return safe and len(inner.parts) > 1 and inner.parts[0] == _COPY and inner.name.endswith(_WANTED_FILES)


def _write_record(run: Any, folder: Path, uploaded: Collection[Path] = ()) -> None:
    """Write what the run did not upload itself; repeated each time, since the run may continue."""
    config = folder / "config.yaml"
    settings = dict(run.config)
    facts = settings.pop(FACTS_KEY, {})
    if config not in uploaded:
        write_atomic(config, yaml.safe_dump(_plain(settings.get(CONFIG_KEY, settings))))
    summary = folder / "summary.json"
    if summary not in uploaded:
        numbers = {key: _number(value) for key, value in dict(run.summary).items() if "/" in key}
        metrics = {key: value for key, value in numbers.items() if value is not None}
        write_atomic(summary, json.dumps({**_plain(facts), "metrics": metrics}, indent=1) + "\n")
    _write_history(run, folder / "metrics.csv")


def _plain(value: Any) -> Any:
    """Settings as YAML-compatible data."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _number(value: Any) -> float | None:
    """A summary's value; of ``{"min": x}``, which ``summary="min"`` leaves, the value inside."""
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    return float(value) if isinstance(value, int | float) else None


def _write_history(run: Any, path: Path) -> None:
    rows = [dict(row) for row in run.scan_history()]
    names = sorted({key for row in rows for key in row if "/" in key and key != "trainer/global_step"})
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["step", *map(csv_cell, names)])
    for row in rows:
        step = row.get("trainer/global_step", row.get("_step"))
        numbers = [_number(row.get(name)) for name in names]
        writer.writerow([step, *("" if number is None else number for number in numbers)])
    write_atomic(path, text.getvalue())


def upload_run(run: Path, wandb_run: Any) -> int:
    """Put a run folder's settings and evaluations among the files of a W&B run, for ``fetch_runs``.

    Args:
        run: folder.
        wandb_run: an open run, as ``wandb.init(id=..., resume="must")`` gives it.

    Returns:
        Number of files.
    """
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name.endswith(_WANTED_FILES)]
    chosen = [path for path in files if path.parent == run or "evaluation" in path.relative_to(run).parts]
    for path in chosen:
        target = Path(wandb_run.dir) / _COPY / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        wandb_run.save(str(target), base_path=wandb_run.dir)
    return len(chosen)
