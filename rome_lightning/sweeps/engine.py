"""Sweeps without a server: trials on one machine or as a SLURM array, resumable, with early termination."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rome_lightning.comparison.runs import read_json
from rome_lightning.comparison.wandb_runs import upload_run
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.cluster_jobs import MOST_TIME_LIMITS, wait_for_job
from rome_lightning.media.escaping import file_name
from rome_lightning.media.stopping import INTERRUPTED_CODES
from rome_lightning.sweeps.file import SweepFile, read_sweep
from rome_lightning.sweeps.methods import num_trials, settings_of
from rome_lightning.sweeps.trials import (
    Trial,
    best_value,
    history,
    load_trial,
    load_trials,
    reason_to_stop,
    trial_folder,
)

SWEEP_FILE = "sweep.yaml"
STATE_FILE = "state.json"
LOG_FILE = "log.txt"
_POLL_S = 2.0
_GRACE_S = 60.0
Report = Callable[[Trial], None]


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk: ``sweep.yaml``, ``state.json``, ``trials/NNNN/`` (run folders with ``trial.json``)."""

    path: Path
    sweep: SweepFile
    seed: int
    count: int
    """Total number of trials."""
    directory: Path
    """Working folder of the commands; paths in the file are relative to it."""
    extra: tuple[str, ...] = ()
    """Options that every trial gets after those in the file."""

    @classmethod
    def create(
        cls, file: Path, folder: Path, count: int | None, seed: int, extra: tuple[str, ...] = ()
    ) -> SweepFolder:
        """Create the folder, or reopen it to resume, possibly with more trials.

        Raises:
            ValueError: it contains another sweep.
        """
        sweep = read_sweep(file)
        total = num_trials(sweep, count)
        copy = folder / SWEEP_FILE
        if copy.is_file():
            opened = cls.open(folder)
            if copy.read_bytes() != file.read_bytes() or (opened.seed, opened.extra) != (seed, extra):
                raise ValueError(
                    f"{folder} holds another sweep ({SWEEP_FILE}, {STATE_FILE}); choose another --output"
                )
        else:
            write_atomic(copy, file.read_bytes())
        made = cls(folder, read_sweep(copy), seed, total, Path.cwd(), extra)
        state = {"seed": seed, "count": total, "directory": str(made.directory), "extra": extra}
        write_atomic(folder / STATE_FILE, json.dumps(state, indent=1) + "\n")
        return made

    @classmethod
    def open(cls, folder: Path) -> SweepFolder:
        """Read a sweep's folder.

        Raises:
            FileNotFoundError: it is none.
        """
        if not (folder / SWEEP_FILE).is_file() or not (folder / STATE_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} is not a folder of `rome sweep`: it lacks {SWEEP_FILE} or {STATE_FILE}"
            )
        state = read_json(folder / STATE_FILE)
        sweep = read_sweep(folder / SWEEP_FILE)
        directory = Path(state["directory"])
        return cls(folder, sweep, state["seed"], state["count"], directory, tuple(state["extra"]))

    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        return load_trials(self.path)

    def next_trial(self) -> Trial | None:
        """Choose and record the settings of a new trial; None if there are enough."""
        before = self.trials()
        if len(before) >= self.count:
            return None
        number = len(before) + 1
        settings = settings_of(self.sweep, number, self.seed, before)
        trial = Trial(trial_folder(self.path, number), number, settings, "running")
        trial.save()
        return trial

    def command(self, trial: Trial) -> list[str]:
        """Command that trains a trial; it resumes from the trial's last checkpoint if there is one."""
        words = self.sweep.arguments(trial.settings)
        own = [f"--run_dir={trial.folder.resolve()}", "--ckpt_path=auto"]
        return [sys.executable, "-m", "rome_lightning", *words[1:], *self.extra, *own]

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Lock the folder against a second ``rome sweep``.

        Raises:
            ValueError: there is one.
        """
        with (self.path / ".lock").open("w") as file:
            if not _locked(file.fileno()):
                raise ValueError(f"another process is running the sweep in {self.path}; wait for it")
            yield


def _locked(descriptor: int, wait_for_it: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait_for_it else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def run_trial(
    folder: SweepFolder,
    number: int,
    stop: threading.Event | None = None,
    environment: dict[str, str] | None = None,
    poll_s: float = _POLL_S,
) -> Trial:
    """Train one trial until it finishes or is stopped early.

    Args:
        folder: of the sweep.
        number: of a trial that ``next_trial`` recorded.
        stop: set to end the training after a checkpoint; the trial then stays unfinished.
        environment: variables for the training in addition to this process's own.
        poll_s: time between two checks of the trial's validations, seconds.
    """
    path = trial_folder(folder.path, number)
    stop = stop or threading.Event()
    with (path / ".lock").open("w") as lock:
        # The training holds the lock too, so a training that outlived a killed sweep is awaited and not run
        # twice.
        while not _locked(lock.fileno()):
            if stop.wait(poll_s):
                return load_trial(path)
        trial = load_trial(path)
        if trial.is_over:
            return trial
        with (path / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                folder.command(trial),
                cwd=folder.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                pass_fds=[lock.fileno()],
            )
            why = _watch(folder, trial, process, stop, poll_s)
        trial = _judged(folder, trial, process.returncode, why, stop.is_set())
        trial.save()
        return trial


def _watch(
    folder: SweepFolder, trial: Trial, process: subprocess.Popen[bytes], stop: threading.Event, poll_s: float
) -> str:
    """Wait for the training; return the reason if it was stopped early."""
    rule, seen = folder.sweep.early_termination, 0
    try:
        while True:
            try:
                process.wait(poll_s)
                return ""
            except subprocess.TimeoutExpired:
                pass
            if stop.is_set():
                _end(process)
                return ""
            own = history(trial.folder, folder.sweep.metric)
            if rule is None or len(own) == seen:
                continue
            seen = len(own)
            others = [
                history(t.folder, folder.sweep.metric) for t in folder.trials() if t.number != trial.number
            ]
            why = reason_to_stop(rule, own, others, folder.sweep.goal)
            if why:
                _end(process)
                return why
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the training to stop, which writes a checkpoint; then kill it."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _judged(folder: SweepFolder, trial: Trial, code: int, why: str, interrupted: bool) -> Trial:
    """The trial's state after its training has ended."""
    metric = folder.sweep.metric
    value = best_value(history(trial.folder, metric), folder.sweep.goal)
    if why:
        return replace(trial, status="stopped", value=value, reason=why)
    if code == 0 and value is not None:
        return replace(trial, status="finished", value=value)
    if code == 0:
        return replace(trial, status="failed", reason=f"no finite {metric} in its metrics.csv")
    if interrupted or code in INTERRUPTED_CODES:
        return replace(trial, value=value)
    return replace(trial, status="failed", reason=_last_words(trial.folder / LOG_FILE, code))


def _last_words(log: Path, code: int) -> str:
    """The last words of a failed training."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith("rome: error: ")]
    if errors:
        return errors[-1].removeprefix("rome: error: ")
    return f"exit code {code}: {lines[-1] if lines and lines[-1] else 'no message'}"


def forget_failures(folder: SweepFolder) -> int:
    """Mark failed trials to run again from their last checkpoints; return their number."""
    failed = [trial for trial in folder.trials() if trial.status == "failed"]
    for trial in failed:
        replace(trial, status="running", reason="").save()
    return len(failed)


def run_local(folder: SweepFolder, processes: int, report: Report, poll_s: float = _POLL_S) -> None:
    """Run all trials on this machine.

    Args:
        folder: of the sweep.
        processes: concurrent trainings; with several GPUs, each gets one.
        report: is told of each trial that ends.
        poll_s: see ``run_trial``.
    """
    stop = threading.Event()
    waiting = [trial for trial in folder.trials() if not trial.is_over]
    slots = list(range(processes))
    active: dict[Future[Trial], int] = {}
    with folder.only_one(), ThreadPoolExecutor(processes) as pool:
        try:
            while True:
                while slots and (trial := waiting.pop(0) if waiting else folder.next_trial()):
                    slot = slots.pop()
                    variables = _device_of(slot, processes)
                    active[pool.submit(run_trial, folder, trial.number, stop, variables, poll_s)] = slot
                if not active:
                    return
                for future in wait(active, return_when=FIRST_COMPLETED).done:
                    slots.append(active.pop(future))
                    report(future.result())
        except BaseException:
            stop.set()
            raise


def _device_of(slot: int, processes: int) -> dict[str, str]:
    """Distribute the GPUs among concurrent trainings."""
    if processes == 1:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        visible = ",".join(map(str, range(torch.cuda.device_count())))
    devices = [device for device in visible.split(",") if device]
    return {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {}


@dataclass
class TrialJob:
    """A trial as a cluster job; at its time limit it is requeued and resumes."""

    path: Path
    number: int

    def __post_init__(self) -> None:
        self._stop: threading.Event | None = None
        self._worker: threading.Thread | None = None

    def __call__(self) -> str:
        """Train the trial."""
        trained: Future[Trial] = Future()
        self._stop = threading.Event()

        def train() -> None:
            try:
                trained.set_result(run_trial(SweepFolder.open(self.path), self.number, self._stop))
            except BaseException as error:
                trained.set_exception(error)

        # Train in a thread: the main thread receives the time limit's signal and then waits for the
        # checkpoint.
        self._worker = threading.Thread(target=train)
        self._worker.start()
        while self._worker.is_alive():
            self._worker.join(_POLL_S)
        return trained.result().status

    def checkpoint(self) -> Any:
        """The job to requeue after a preemption or time limit, once the training has saved its state."""
        from submitit.helpers import DelayedSubmission

        if self._stop is not None and self._worker is not None:
            self._stop.set()
            self._worker.join(_GRACE_S + 2 * _POLL_S)
        return DelayedSubmission(TrialJob(self.path, self.number))


def run_submitit(
    folder: SweepFolder, parallel: int, parameters: dict[str, Any], report: Report, cluster: str | None = None
) -> None:
    """Run all trials as SLURM arrays and wait for them.

    Grid and random searches are one array; a Bayesian search submits ``parallel`` trials at a time, because
    each round needs the results of the one before.

    Args:
        folder: of the sweep, on a disk shared by all nodes.
        parallel: concurrent jobs.
        parameters: of submitit, such as ``slurm_partition``, ``timeout_min``, ``gpus_per_node``.
        report: is told of each trial that ends.
        cluster: of submitit, such as ``local`` or ``debug``; None finds SLURM.

    Raises:
        ImportError: submitit is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--engine submitit needs submitit: pip install 'rome-lightning[slurm]'") from error
    # By default submitit gives up on a job after three time limits.
    executor = submitit.AutoExecutor(
        folder=folder.path.resolve() / "jobs", cluster=cluster, slurm_max_num_timeout=MOST_TIME_LIMITS
    )
    arrays = {"slurm_array_parallelism": parallel} if executor.cluster == "slurm" else {}
    executor.update_parameters(**{"name": file_name(folder.sweep.name)[:40], **arrays, **parameters})
    with folder.only_one():
        waiting = [trial for trial in folder.trials() if not trial.is_over]
        while True:
            size = parallel if folder.sweep.method == "bayes" else folder.count
            while len(waiting) < size and (trial := folder.next_trial()):
                waiting.append(trial)
            if not waiting:
                return
            with executor.batch():
                jobs = [executor.submit(TrialJob(folder.path.resolve(), trial.number)) for trial in waiting]
            for trial, job in zip(waiting, jobs, strict=True):
                _collect(trial, job, of_slurm=executor.cluster == "slurm")
                report(load_trial(trial.folder))
            waiting = []


def _collect(trial: Trial, job: Any, of_slurm: bool) -> None:
    """Wait for a job; a dead job counts as failed, with the reason."""
    reason = wait_for_job(job, of_slurm)
    if reason and not load_trial(trial.folder).is_over:
        replace(trial, status="failed", reason=reason[-300:]).save()


def run_wandb(sweep: SweepFile, count: int | None, project: str | None, entity: str | None) -> int:
    """Register the sweep with the server and run an agent here; return the agent's exit code."""
    import wandb
    import yaml

    content = yaml.safe_load(sweep.path.read_text(encoding="utf-8"))
    identifier = wandb.sweep(content, entity=entity, project=project)
    name = "/".join(part for part in (entity, project, identifier) if part)
    print(f"more agents, on any machine: wandb agent {name}")
    limit = ["--count", str(count)] if count else []
    return subprocess.call([sys.executable, "-m", "wandb", "agent", *limit, name])


def sync_offline(folder: Path, project: str = "rome_lightning", entity: str | None = None) -> int:
    """Send every offline W&B run below a folder to the server, with the evaluations of its run folder.

    Args:
        folder: of a sweep, of a run, or of many.
        project: project of the runs.
        entity: user or team; None for your own.

    Returns:
        The number of runs that could not be sent.

    Raises:
        FileNotFoundError: there is none.
    """
    offline = sorted(path for path in folder.rglob("offline-run-*") if path.is_dir())
    if not offline:
        raise FileNotFoundError(f"no offline W&B run below {folder}; train with --wandb offline")
    where = ["--project", project, *(["--entity", entity] if entity else [])]
    command = [sys.executable, "-m", "wandb", "sync", *where]
    failed = [path for path in offline if subprocess.call([*command, str(path)]) != 0]
    print(f"{len(offline) - len(failed)} of {len(offline)} offline runs sent")
    for run in sorted({path.parents[1] for path in offline} - {path.parents[1] for path in failed}):
        if (run / "evaluation").is_dir():
            _send_evaluations(run, project, entity)
    return len(failed)


def _send_evaluations(run: Path, project: str, entity: str | None) -> None:
    import wandb

    identifier = (run / "wandb_id.txt").read_text(encoding="utf-8").strip()
    with wandb.init(id=identifier, project=project, entity=entity, resume="must") as opened:
        print(f"{run}: {upload_run(run, opened)} files of its evaluations sent")
