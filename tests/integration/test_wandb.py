"""Runs and a sweep's trial, sent by the real W&B client, arrive at a server as in their folders."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import BASE, ROOT, tiny_arguments, tiny_overlay, write_synthetic_dataset
from wandb_server import ENTITY, RunRecord, WandbServer

from rome_lightning.media.provenance import CONFIG_KEY, FACTS_KEY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("dataset"))


def _rome(server: WandbServer, folder: Path, *arguments: str) -> str:
    """Run ``rome``, which an agent also finds by name; returns the output."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "rome").write_text(f'#!/bin/sh\nexec {sys.executable} -m rome_lightning "$@"\n')
    (programs / "rome").chmod(0o755)
    own = {
        **os.environ, **server.environment, "PYTHONPATH": str(ROOT), "WANDB_DIR": str(folder),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }  # fmt: skip
    own = {name: value for name, value in own.items() if name != "WANDB_MODE"}
    done = subprocess.run(
        [str(programs / "rome"), *arguments],
        cwd=folder, env=own, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def _overlay(dataset: Path, folder: Path) -> dict[str, Any]:
    overlay = tiny_overlay(dataset, folder / "run")
    return overlay | {"wandb": "online", "seed_everything": 5}


def _table(folder: Path) -> dict[tuple[int, str], float]:
    """Values of ``metrics.csv`` by step and name."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (int(row["step"]), name): float(value)
        for row in rows
        for name, value in row.items()
        if value and "/" in name
    }


def _without_empty(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that are ``{}``, which W&B's client does not send."""
    return {
        name: _without_empty(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if value != {}
    }


def _assert_arrived(run: RunRecord, folder: Path) -> None:
    """Settings, values and pictures of a run folder are on the server."""
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert run.config[CONFIG_KEY]["value"] == _without_empty(resolved)
    summary = json.loads((folder / "summary.json").read_text())
    facts = run.config[FACTS_KEY]["value"]
    assert len(facts["dataset_hash"]) == 64
    assert facts == _without_empty({name: summary[name] for name in facts})
    history = {
        (row["trainer/global_step"], name): value
        for row in run.history.values()
        for name, value in row.items()
        if "/" in name and name != "trainer/global_step" and isinstance(value, int | float)
    }
    expected = _table(folder)
    assert len(expected) > 20
    assert history == pytest.approx({key: expected[key] for key in history}, rel=1e-6)
    assert {name for _, name in history} == {name for _, name in expected}
    best = max(value for (_, name), value in expected.items() if name == "val/psnr")
    assert run.summary["val/psnr"] == pytest.approx({"max": best})
    pictures = [content for name, content in run.files.items() if name.startswith("media/images/val/images")]
    assert pictures
    assert all(content.startswith(b"\x89PNG") for content in pictures)
    assert run.exit_code == 0


def test_a_run_arrives_with_settings_values_and_pictures(dataset: Path, tmp_path: Path) -> None:
    with WandbServer() as server:
        _rome(server, tmp_path, *tiny_arguments("fit", _overlay(dataset, tmp_path), tmp_path))
    assert server.unknown == []
    (run,) = server.runs.values()
    assert (run.name, run.project) == ((tmp_path / "run/wandb_id.txt").read_text().strip(), "rome_lightning")
    _assert_arrived(run, tmp_path / "run")


def test_an_agent_runs_a_trial_of_a_sweep(dataset: Path, tmp_path: Path) -> None:
    overlay = _overlay(dataset, tmp_path)
    overlay.pop("run_dir")
    tiny_arguments("fit", overlay, tmp_path)
    name = "model.init_args.optimizer.learning_rate"
    sweep = {
        "name": "rates", "method": "random", "metric": {"name": "val/psnr", "goal": "maximize"},
        "parameters": {name: {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}},
        "command": [
            *("${env}", "rome", "fit", "--config", str(BASE), "--config", str(tmp_path / "tiny.yaml")),
            "${args}",
        ],
    }  # fmt: skip
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep))
    with WandbServer(({name: 0.00123},)) as server:
        options = ("--engine", "wandb", "--count", "1", "--entity", ENTITY)
        said = _rome(server, tmp_path, "sweep", str(file), *options)
    assert server.unknown == []
    assert f"wandb agent {ENTITY}/rome_lightning/sweep0" in said
    assert server.sweeps == {"sweep0": sweep}
    (run,) = server.runs.values()
    assert (run.name, run.sweep) == ("trial1", "sweep0")
    folder = tmp_path / "runs/sweeps/sweep0/trial1"
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["model"]["init_args"]["optimizer"]["learning_rate"] == 0.00123
    _assert_arrived(run, folder)


def test_an_offline_run_is_sent_later_with_its_evaluation(dataset: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    with WandbServer() as server:
        overlay = _overlay(dataset, tmp_path) | {"wandb": "offline"}
        _rome(server, tmp_path, *tiny_arguments("fit", overlay, tmp_path))
        assert not server.runs
        (run_folder / "evaluation" / "demo").mkdir(parents=True)
        (run_folder / "evaluation" / "demo" / "summary.json").write_text('{"psnr": 20.0}')
        said = _rome(server, tmp_path, "sweep", "sync", str(run_folder), "--entity", ENTITY)
    assert "1 of 1 offline runs sent" in said
    assert server.unknown == []
    (run,) = server.runs.values()
    _assert_arrived(run, run_folder)
    assert run.files["rome/evaluation/demo/summary.json"] == b'{"psnr": 20.0}'
