"""``rome sweep``: the same sweep file on a W&B server, on one machine, or as a SLURM array."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.config_parsing import HintingParser, config_parser
from rome_lightning.media.escaping import file_name, printable
from rome_lightning.media.remaining import time_left

if TYPE_CHECKING:
    from rome_lightning.sweeps.engine import SweepFolder
    from rome_lightning.sweeps.trials import Trial


@dataclass
class SweepConfig:
    """Options of a sweep."""

    engine: Literal["wandb", "local", "submitit"] = "local"
    """``wandb``: W&B's server. ``local``: this machine, no server. ``submitit``: SLURM, no server."""
    count: int | None = None
    """Total number of trials (with wandb: of this agent; default: the whole grid, or run_cap of the file).
    Raise it later to continue the sweep."""
    output: Path | None = None
    """Folder of the sweep; the same folder resumes a sweep (default: runs/sweeps/NAME)."""
    processes: int = 1
    """Concurrent trials: on this machine (each on its own GPU if there are several), or as jobs."""
    seed: int = 0
    """Seed of random and Bayesian search; the seed of a training is in its configuration."""
    wandb: Literal["offline", "disabled"] = "offline"
    """W&B mode of trials without a server; `rome sweep sync` can send offline records later."""
    retry_failed: bool = False
    """Run failed trials again, from their last checkpoints."""
    cluster: dict[str, Any] = field(default_factory=dict)
    """Parameters of submitit, such as '{slurm_partition: gpu, timeout_min: 600, gpus_per_node: 1}'; 'cluster:
    local' runs the jobs as processes here."""
    data: Path | None = None
    """Training data of every trial: manifest.json of `rome prepare`, or its folder (default: the
    configuration's)."""
    project: str = "rome_lightning"
    """W&B project of the engine wandb."""
    entity: str | None = None
    """W&B user or team of the engine wandb; default: your own."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")


def _parser() -> HintingParser:
    parser = config_parser(
        "rome sweep",
        "Try the settings of a sweep file (the format of Weights & Biases) and rank them. After "
        "a kill or an interruption the same command resumes: finished trials are not repeated, the others "
        "resume from their checkpoints. Example: rome sweep loss_weights --count 20. "
        "`rome sweep sync DIR` sends the offline W&B runs below DIR to the server. See docs/comparison.md.",
    )
    parser.add_argument(
        "file", type=Path, help="Sweep file, or the name of a shipped one, such as loss_weights."
    )
    parser.add_class_arguments(SweepConfig, None)
    return parser


def main(argv: list[str]) -> int:
    """Run ``rome sweep``.

    Args:
        argv: arguments after ``rome sweep``.

    Returns:
        0 if every trial finished or was stopped early, 1 if any failed.
    """
    if argv[:1] == ["sync"]:
        return _sync(argv[1:])
    parser = _parser()
    options = parser.parse_args(argv)
    config = SweepConfig(**{name: options[name] for name in SweepConfig.__dataclass_fields__})
    from rome_lightning.sweeps.engine import SweepFolder, forget_failures, run_wandb
    from rome_lightning.sweeps.file import read_sweep

    file = find_experiment(options.file, "sweeps")
    sweep = read_sweep(file)
    if config.engine == "wandb":
        return run_wandb(sweep, config.count, config.project, config.entity)
    output = config.output or Path("runs") / "sweeps" / file_name(sweep.name)
    folder = SweepFolder.create(file, output, config.count, config.seed, _extra(config))
    if config.retry_failed:
        print(f"{forget_failures(folder)} failed trials run again", file=sys.stderr)
    _run(folder, config)
    return _finish(folder)


def _extra(config: SweepConfig) -> tuple[str, ...]:
    """Options of `rome fit` that every trial gets in addition to those of the sweep file."""
    data = () if config.data is None else (f"--data.init_args.manifest={config.data.resolve()}",)
    return (f"--wandb={config.wandb}", *data)


def _run(folder: SweepFolder, config: SweepConfig) -> None:
    from rome_lightning.sweeps.engine import run_local, run_submitit

    start = time.monotonic()
    over_before = sum(trial.is_over for trial in folder.trials())

    def report(trial: Trial) -> None:
        over = sum(other.is_over for other in folder.trials())
        left = time_left(time.monotonic() - start, over - over_before, folder.count - over_before)
        value = "" if trial.value is None else f", {folder.sweep.metric} {trial.value:.5g}"
        why = f" ({trial.reason})" if trial.reason else ""
        told = f"[{over}/{folder.count}] trial {trial.folder.name}: {trial.status}{value}{why}"
        print(printable(f"{told}, {left}" if left else told), flush=True)

    # A sweep that receives a stop signal must stop its trainings too.
    signal.signal(signal.SIGTERM, _exit)
    if config.engine == "local":
        run_local(folder, config.processes, report)
    else:
        parameters = dict(config.cluster)
        run_submitit(folder, config.processes, parameters, report, parameters.pop("cluster", None))


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _finish(folder: SweepFolder) -> int:
    """Rank the trials and report failures."""
    from rome_lightning.media.provenance import code_and_versions
    from rome_lightning.sweeps.ranking import rank_sweep, ranking_text, write_ranking

    ranking = rank_sweep(folder.path)
    page = folder.path / "ranking.html"
    write_ranking(page, ranking, {"code": code_and_versions()})
    sys.stdout.write(ranking_text(ranking, "table"))
    print(page)
    bad = [trial for trial in ranking.trials if trial.status in ("failed", "running")]
    for trial in bad:
        print(
            printable(f"rome: warning: trial {trial.folder} {trial.status}: {trial.reason}"), file=sys.stderr
        )
    return 1 if bad else 0


def _sync(argv: list[str]) -> int:
    from rome_lightning.sweeps.engine import sync_offline

    parser = HintingParser(
        prog="rome sweep sync",
        exit_on_error=False,
        description="Send every offline W&B run below a folder (a sweep, a run, or many) to the server, with "
        "the evaluations of its run folder. Log in first with `wandb login`.",
    )
    parser.add_argument("folder", type=Path, help="Folder to search.")
    parser.add_argument("--project", type=str, default="rome_lightning", help="W&B project.")
    parser.add_argument("--entity", type=str, default=None, help="W&B user or team; default: your own.")
    options = parser.parse_args(argv)
    return 1 if sync_offline(options.folder, options.project, options.entity) else 0
