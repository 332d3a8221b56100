"""Sweeps without a server: trials, repetitions, early stopping and reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sweep_files import write_sweep
from tiny_run import ROOT

from rome_lightning.cli import main as cli
from rome_lightning.cli import sweep as sweep_command
from rome_lightning.media.atomic import write_atomic
from rome_lightning.sweeps import engine as sweeps
from rome_lightning.sweeps.engine import SweepFolder, run_local, run_submitit, run_trial, sync_offline
from rome_lightning.sweeps.ranking import rank_sweep
from rome_lightning.sweeps.trials import Trial, load_trials, trial_folder

TRAINING = """
import os, sys, time
options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
folder, x = options["run_dir"], float(options["x"])
os.makedirs(folder, exist_ok=True)
with open(folder + "/starts", "a") as file:
    file.write("start\\n")
if x == 13:
    sys.exit("rome: error: thirteen is unlucky")
path = folder + "/metrics.csv"
done = max(0, len(open(path).readlines()) - 1) if os.path.exists(path) else 0
with open(path, "a") as file:
    if not done:
        file.write("epoch,step,val/lpips\\n")
    for step in range(done, 6):
        file.write(f"{step},{step},{(x - 3) ** 2 + 1 / (step + 1)}\\n")
        file.flush()
        time.sleep(float(options.get("pause", 0)))
"""
"""A stand-in for ``rome fit``: a parabola learned in six validations."""


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run the stand-in."""
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    real = SweepFolder.command

    def command(self: SweepFolder, trial: Trial) -> list[str]:
        words = real(self, trial)
        assert words[1:4] == ["-m", "rome_lightning", "fit"]
        return [sys.executable, str(script), *words[4:]]

    monkeypatch.setattr(SweepFolder, "command", command)


def _nothing(trial: Trial) -> None:
    pass


def _starts(trial: Trial) -> int:
    return len((trial.folder / "starts").read_text().splitlines())


def _run(file: Path, folder: Path, count: int | None = None, processes: int = 1) -> list[Trial]:
    opened = SweepFolder.create(file, folder, count, seed=0)
    run_local(opened, processes, _nothing, poll_s=0.02)
    return opened.trials()


def test_a_grid_is_tried_once_and_in_full(trainings, tmp_path):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1, 2, 3]}, "y": {"values": ["a", "b"]}})
    trials = _run(file, tmp_path / "out", processes=2)
    assert sorted((t.settings["x"], t.settings["y"]) for t in trials) == [
        (x, y) for x in (1, 2, 3) for y in "ab"
    ]
    assert {t.status for t in trials} == {"finished"}
    best = rank_sweep(tmp_path / "out").best
    assert best.settings["x"] == 3
    # The best validation, not the last: here they are the same, 1/6.
    assert best.value == pytest.approx(1 / 6)
    again = _run(file, tmp_path / "out", processes=2)
    assert again == trials
    assert all(_starts(t) == 1 for t in again)
    # Numbers and folders count from 1.
    assert [(t.number, t.folder.name) for t in trials] == [(n, f"{n:04d}") for n in range(1, 7)]


def test_a_failed_trial_is_told_with_its_reason_and_run_again_on_request(trainings, tmp_path, capsys):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [13, 3]}})
    arguments = ["sweep", str(file), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == cli.EXIT_FAILURE
    shown = capsys.readouterr()
    assert "failed: thirteen is unlucky" in shown.err
    assert "1 finished" in shown.out
    assert "thirteen is unlucky" in (tmp_path / "out" / "ranking.html").read_text()
    failed, fine = load_trials(tmp_path / "out")
    assert (_starts(failed), _starts(fine)) == (1, 1)
    assert cli.main([*arguments, "--retry_failed", "true"]) == cli.EXIT_FAILURE
    assert (_starts(failed), _starts(fine)) == (2, 1)


def test_a_training_without_the_metric_failed(trainings, tmp_path):
    file = write_sweep(
        tmp_path / "s.yaml", {"x": {"values": [1]}}, metric={"name": "val/nothing", "goal": "minimize"}
    )
    (trial,) = _run(file, tmp_path / "out")
    assert trial.status == "failed"
    assert "no finite val/nothing" in trial.reason


def test_a_killed_sweep_resumes(trainings, tmp_path):
    """The sweep's process dies immediately; its training continues, and neither is done twice."""
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1, 2]}, "pause": {"value": 0.15}})
    folder = tmp_path / "out"
    opened = SweepFolder.create(file, folder, None, 0)
    first = opened.next_trial()
    code = (
        "import sys; from pathlib import Path; from rome_lightning.sweeps import engine as sweep\n"
        f"sweep.SweepFolder.command = lambda self, trial: {opened.command(first)!r}\n"
        "sweep.run_trial(sweep.SweepFolder.open(Path(sys.argv[1])), 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (first.folder / "starts").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_trials(folder)[0].status == "running"
    trials = _run(file, folder)
    assert [t.status for t in trials] == ["finished", "finished"]
    # The second start found all six validations done and added nothing.
    assert len((first.folder / "metrics.csv").read_text().splitlines()) == 7
    assert [_starts(trial) for trial in trials] == [2, 1]


def test_an_interrupted_trial_stays_unfinished(trainings, tmp_path, monkeypatch):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}, "pause": {"value": 5}})
    opened = SweepFolder.create(file, tmp_path / "out", None, 0)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_local(opened, 1, _nothing, poll_s=0.02)
    (trial,) = opened.trials()
    assert trial.status == "running"


def test_a_second_sweep_is_kept_out(trainings, tmp_path):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}})
    opened = SweepFolder.create(file, tmp_path / "out", None, 0)
    with opened.only_one(), pytest.raises(ValueError, match="another process is running the sweep"):
        run_local(opened, 1, _nothing)


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    SweepFolder.create(write_sweep(tmp_path / "a.yaml", {"x": {"values": [1]}}), tmp_path / "out", None, 0)
    with pytest.raises(ValueError, match="holds another sweep"):
        SweepFolder.create(
            write_sweep(tmp_path / "b.yaml", {"x": {"values": [2]}}), tmp_path / "out", None, 0
        )


def test_a_poor_trial_is_stopped_early(trainings, tmp_path):
    file = write_sweep(
        tmp_path / "s.yaml",
        {"x": {"values": [3, 2, 1, 9]}, "pause": {"value": 0.15}},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
    )
    trials = _run(file, tmp_path / "out")
    assert trials[0].status == "finished"
    assert trials[-1].status == "stopped"
    assert "other trials were better after" in trials[-1].reason
    # Its value counts: it is ranked last, not missing.
    assert rank_sweep(tmp_path / "out").trials[-1].value > 30


def test_the_settings_that_matter_are_found(trainings, tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    file = write_sweep(
        tmp_path / "s.yaml", {"x": {"min": 0.0, "max": 6.0}, "y": {"min": 0.0, "max": 1.0}}, "random"
    )
    _run(file, tmp_path / "out", count=12, processes=2)
    ranking = rank_sweep(tmp_path / "out")
    assert ranking.importance["x"] > 0.7
    assert sum(ranking.importance.values()) == pytest.approx(1.0)


def test_submitit_runs_the_same_trials(trainings, tmp_path):
    """The debug executor runs jobs in this process."""
    pytest.importorskip("submitit")
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1, 3, 13]}})
    opened = SweepFolder.create(file, tmp_path / "out", None, 0)
    told: list[Trial] = []
    run_submitit(opened, 2, {}, told.append, cluster="debug")
    assert [t.status for t in told] == ["finished", "finished", "failed"]
    assert told[2].reason == "thirteen is unlucky"


def test_a_cluster_job_resumes_after_its_time_limit(trainings, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(sweeps, "run_trial", partial(run_trial, poll_s=0.05))
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}, "pause": {"values": [0.4]}})
    SweepFolder.create(file, tmp_path / "out", None, 0).next_trial()
    job = sweeps.TrialJob(tmp_path / "out", 1)
    queued: list[Any] = []

    def warn() -> None:
        while not _rows(tmp_path / "out"):
            time.sleep(0.02)
        queued.append(job.checkpoint())

    warning = threading.Thread(target=warn)
    warning.start()
    assert job() == "running"
    warning.join()
    # The training was stopped, and the next job continues from its checkpoint.
    (again,) = queued
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert 1 <= _rows(tmp_path / "out") < 6
    assert again.function() == "finished"
    (trial,) = SweepFolder.open(tmp_path / "out").trials()
    assert (_rows(tmp_path / "out"), _starts(trial)) == (6, 2)


def _rows(sweep: Path) -> int:
    """Validations of the first trial so far."""
    path = trial_folder(sweep, 1) / "metrics.csv"
    return max(0, len(path.read_text().splitlines()) - 1) if path.is_file() else 0


def test_the_error_of_a_cluster_job_is_its_reason(tmp_path):
    pytest.importorskip("submitit")
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}})
    opened = SweepFolder.create(file, tmp_path / "out", None, 0)
    opened = replace(opened, directory=tmp_path / "gone")
    write_atomic(
        tmp_path / "out" / "state.json",
        json.dumps({"seed": 0, "count": 1, "directory": str(opened.directory), "extra": []}),
    )
    told: list[Trial] = []
    run_submitit(opened, 1, {}, told.append, cluster="debug")
    assert told[0].status == "failed"
    assert "No such file or directory" in told[0].reason


def test_the_server_gets_the_file_as_it_is(tmp_path, monkeypatch, capsys):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}})
    calls: list[Any] = []

    def register(content: dict[str, Any], entity: str | None, project: str | None) -> str:
        calls.append((content, entity, project))
        return "abc"

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(sweep=register))
    monkeypatch.setattr(sweeps.subprocess, "call", lambda words: calls.append(words) or 0)
    assert (
        cli.main(["sweep", str(file), "--engine", "wandb", "--entity", "me", "--count", "3"]) == cli.EXIT_OK
    )
    assert calls[0] == (yaml.safe_load(file.read_text()), "me", "rome_lightning")
    assert calls[1][1:] == ["-m", "wandb", "agent", "--count", "3", "me/rome_lightning/abc"]
    assert "wandb agent me/rome_lightning/abc" in capsys.readouterr().out


def test_offline_runs_are_sent_with_one_command(tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / f"trials/{number}/wandb/offline-run-{number}").mkdir(parents=True)
    sent: list[list[str]] = []
    monkeypatch.setattr(sweeps.subprocess, "call", lambda words: sent.append(words) or len(sent) - 1)
    assert sync_offline(tmp_path) == 1
    assert [Path(words[-1]).name for words in sent] == ["offline-run-0", "offline-run-1"]
    with pytest.raises(FileNotFoundError, match="no offline W&B run"):
        sync_offline(tmp_path / "trials/0/wandb/offline-run-0")


def test_ranking_is_a_comparison_too(trainings, tmp_path, capsys):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1, 3]}})
    _run(file, tmp_path / "out")
    assert cli.main(["compare", "--sweep", str(tmp_path / "out"), "--format", "csv"]) == cli.EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial,val/lpips,x,state,why"
    assert lines[1].startswith("0002,")


@pytest.mark.parametrize(("name", "folder"), [("../../x", "_.._x"), ("/etc/x", "_etc_x"), ("a b", "a_b")])
def test_no_name_leads_out_of_the_folder(trainings, tmp_path, monkeypatch, name, folder):
    file = write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}}, name=name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["sweep", str(file)]) == cli.EXIT_OK
    assert (tmp_path / "here" / "runs" / "sweeps" / folder / "ranking.html").is_file()


def test_a_trial_of_the_state_file_survives_a_round_trip(tmp_path):
    trial = Trial(tmp_path / "0001", 1, {"x": 1.5, "y": None, "z": True}, "stopped", 0.25, "poor")
    trial.save()
    assert json.loads((tmp_path / "0001" / "trial.json").read_text())["settings"] == trial.settings
    assert sweeps.load_trial(tmp_path / "0001") == trial


def test_trials_get_a_folder_and_resume_from_their_checkpoint(tmp_path):
    opened = SweepFolder.create(
        write_sweep(tmp_path / "s.yaml", {"x": {"values": [1]}}),
        tmp_path / "out",
        None,
        0,
        ("--wandb=offline",),
    )
    words = opened.command(opened.next_trial())
    assert words[1:] == [
        *("-m", "rome_lightning", "fit", "--config", "base.yaml", "--x=1", "--wandb=offline"),
        *(f"--run_dir={tmp_path / 'out' / 'trials' / '0001'}", "--ckpt_path=auto"),
    ]
    assert run_trial.__module__ == "rome_lightning.sweeps.engine"
    assert os.path.isdir(ROOT / "experiments" / "sweeps")


def test_data_of_the_command_line_is_given_to_every_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_sweep(tmp_path / "sweep.yaml", {"x": {"values": [1]}})
    extra = sweep_command._extra(sweep_command.SweepConfig(data=Path("mine")))
    folder = SweepFolder.create(file, tmp_path / "out", None, 0, extra)
    trial = folder.next_trial()
    assert trial is not None
    assert f"--data.init_args.manifest={tmp_path / 'mine'}" in folder.command(trial)
