"""``rome evaluate``: a system's numbers under a named protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import yaml

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.config_parsing import HintingParser, config_parser
from rome_lightning.cli.progress import counted
from rome_lightning.media.escaping import printable
from rome_lightning.media.locks import owned

if TYPE_CHECKING:
    from rome_lightning.evaluation.evaluator import Evaluation, Unit
    from rome_lightning.evaluation.geometry import MeshSource, MeshSystem
    from rome_lightning.evaluation.pairs import ClipSource, PairItem
    from rome_lightning.evaluation.protocol import MeshRule, Protocol
    from rome_lightning.evaluation.results import Rows
    from rome_lightning.evaluation.scoring import Scorer
    from rome_lightning.evaluation.systems import AvatarSystem, System
    from rome_lightning.head import HeadModel


@dataclass
class EvaluateConfig:
    """Options of an evaluation."""

    protocol: Path | None = None
    """Protocol: a file, or the name of a shipped one, such as demo. Required."""
    checkpoint: Path | None = None
    """Model to evaluate, written by `rome fit` or `rome distill`."""
    predictions: Path | None = None
    """Another system's answers instead: a folder of frames or videos (docs/evaluation.md), or one video."""
    untrained: Path | None = None
    """A model with its initial weights instead: YAML of a training run, or of an avatar's options alone."""
    baseline: Literal["source", "mean", "warp"] | None = None
    """A trivial system instead: the source copied, the mean face, or the source warped by landmarks."""
    targets: Path | None = None
    """With --predictions VIDEO: the video that it should equal, frame by frame; then no --data is needed."""
    data: Path | None = None
    """manifest.json of a dataset made by `rome prepare`, or its folder."""
    split: str | None = None
    """Split of the dataset (default: the protocol's, or, where the dataset lacks it, the last frames of the
    training clips)."""
    output: Path | None = None
    """Run folder; results go to OUTPUT/evaluation/PROTOCOL (default: the checkpoint's run folder, or the
    folder of predictions)."""
    refine_steps: int = 100
    """Steps that fit each avatar to its photograph's outline, as `rome avatar create` does; 0 for none."""
    keep_frames: Literal["examples", "all"] = "examples"
    """Pictures that stay: a few per clip with the worst, median and best cases, or all."""
    num_processes: int = 1
    """Processes that share the work on this machine. Under torchrun or srun leave it at 1: each rank takes
    its part."""
    device: str = "cpu"
    """Where the model and LPIPS run: cpu, cuda, cuda:1."""
    restart: bool = False
    """Delete what an earlier evaluation left in the folder."""


def _parser() -> HintingParser:
    parser = config_parser(
        "rome evaluate",
        "Score a model, or any other system's frames, under a protocol: table, summary.json, "
        "pairs.parquet and report.html. Run it again to resume after an interruption. Example: rome evaluate "
        "--protocol demo --checkpoint runs/x/checkpoints/best.ckpt --data mine",
    )
    parser.add_class_arguments(EvaluateConfig, None)
    return parser


def main(argv: list[str]) -> int:
    """Run ``rome evaluate``.

    Args:
        argv: arguments after ``rome evaluate``.

    Returns:
        0 when everything was scored.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    config = EvaluateConfig(**{name: options[name] for name in EvaluateConfig.__dataclass_fields__})
    if config.protocol is None:
        parser.error("no protocol; give --protocol NAME; `rome experiments list protocols` shows them")
    systems = (config.checkpoint, config.untrained, config.predictions, config.baseline)
    if sum(given is not None for given in systems) != 1:
        parser.error(
            "nothing to evaluate; give one of --checkpoint, --untrained, --predictions and --baseline"
        )
    if config.targets is not None and (config.predictions is None or config.predictions.is_dir()):
        parser.error("--targets VIDEO belongs to --predictions VIDEO")
    if config.num_processes < 1:
        parser.error(f"--num-processes must be at least 1, got {config.num_processes}")
    config.protocol = find_experiment(config.protocol, "protocols")
    if config.num_processes > 1:
        return _spread(argv, config)
    return _evaluate(config, *_rank())


def _rank() -> tuple[int, int]:
    """This process and how many there are, as torchrun or srun say."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def _spread(argv: list[str], config: EvaluateConfig) -> int:
    """Run several processes of ourselves; any that fails ends all."""
    command = [sys.executable, "-m", "rome_lightning", "evaluate", *argv, "--num-processes", "1"]
    count = config.num_processes
    if config.restart:
        _clear(_folder(config))
        command += ["--restart", "false"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    ranks = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "WORLD_SIZE": str(count)})
        for rank in range(count)
    ]
    try:
        codes = [process.wait() for process in ranks]
    except BaseException:
        for process in ranks:
            process.terminate()
        raise
    return max(codes, key=abs)


def _folder(config: EvaluateConfig) -> Path:
    """Where results go."""
    from rome_lightning.evaluation.protocol import load_protocol

    assert config.protocol is not None
    name = load_protocol(config.protocol).name
    return _run_folder(config) / "evaluation" / name


def _run_folder(config: EvaluateConfig) -> Path:
    if config.output is not None:
        return config.output
    if config.checkpoint is not None:
        parent = config.checkpoint.parent
        return parent.parent if parent.name == "checkpoints" else parent
    if config.predictions is not None and config.predictions.is_dir():
        return config.predictions
    raise ValueError(
        "no output folder; a video of predictions, an untrained model and a baseline need --output DIR"
    )


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _evaluate(config: EvaluateConfig, rank: int, world_size: int) -> int:
    folder = _folder(config)
    # Beside the folder, which --restart deletes; processes of one evaluation have a lock each.
    with owned(folder.parent, f"rome evaluate to {folder}", f".{folder.name}.{rank}.lock"):
        return _evaluate_alone(config, rank, world_size, folder)


def _evaluate_alone(config: EvaluateConfig, rank: int, world_size: int, folder: Path) -> int:
    # Heavy imports only now, so that --help and usage errors answer at once.
    from rome_lightning.evaluation.evaluator import Evaluation
    from rome_lightning.evaluation.geometry import GeometryEvaluation
    from rome_lightning.evaluation.page import text_tables
    from rome_lightning.evaluation.pairs import impossible_tasks, pairs_of
    from rome_lightning.evaluation.predictions import for_videos
    from rome_lightning.evaluation.protocol import load_protocol
    from rome_lightning.evaluation.scoring import Scorer

    assert config.protocol is not None
    protocol = load_protocol(config.protocol)
    if config.restart and world_size == 1:
        _clear(folder)
    if protocol.mesh is not None and protocol.mesh.kind == "submission":
        return _submit(config, protocol, folder)
    if config.targets is not None:
        protocol = for_videos(protocol)
    clips = _clips(config, protocol)
    pairs = pairs_of(protocol, config.protocol, clips.clips)
    if rank == 0:
        for task, reason in impossible_tasks(protocol, clips.clips).items():
            print(f"rome: warning: task {task} is left out: {reason}", file=sys.stderr)
    if protocol.mesh is None:
        evaluation = Evaluation(protocol, pairs, clips, _system(config, protocol, clips, pairs), folder)
    else:
        system = _mesh_system(config, protocol, pairs)
        evaluation = GeometryEvaluation(protocol, pairs, cast("MeshSource", clips), system, folder)
    evaluation.open()
    scorer = Scorer(protocol, config.device)
    units = evaluation.share(rank, world_size)
    with closing(progress(units, rank)) as shown:
        evaluation.run(shown, scorer)
    left = evaluation.missing()
    if left:
        print(f"process {rank + 1} of {world_size} is done; the last one writes the summary", file=sys.stderr)
        return 0
    keep_all = config.keep_frames == "all"
    given = config.checkpoint, config.predictions
    speed = _speed(evaluation)
    summary = finish(evaluation, scorer, _run_folder(config), keep_all, *given, speed)[1]
    print(text_tables(summary))
    print(f"{folder / 'summary.json'}; look at {folder / 'report.html'}")
    return 0


def progress(units: list[Unit], rank: int = 0) -> Generator[Unit, None, None]:
    """The units, with a bar on the first process."""
    if rank:
        yield from units
        return
    yield from counted(units, "scoring", len(units))


def _clips(config: EvaluateConfig, protocol: Protocol) -> ClipSource:
    if config.targets is not None:
        from rome_lightning.evaluation.predictions import VideoTargets

        return VideoTargets(config.targets, protocol.resolution)
    rule = protocol.mesh
    if rule is not None and rule.kind == "synthetic":
        return _synthetic(config, rule, protocol.resolution)
    if rule is not None:
        from rome_lightning.evaluation.geometry import ScannedPeople

        return ScannedPeople(_data(config, protocol), _head(config), protocol.resolution, rule.unit_mm)
    from rome_lightning.cli.evaluated_clips import stored_clips

    run = None if config.checkpoint is None else _run_folder(config)
    return stored_clips(_data(config, protocol), protocol, config.split, run)


def _data(config: EvaluateConfig, protocol: Protocol) -> Path:
    """The dataset.

    Raises:
        FileNotFoundError: it is not there; says where to get it.
    """
    if config.data is None or not config.data.exists():
        what = "--data is not given" if config.data is None else f"there is no dataset at {config.data}"
        dataset = protocol.dataset
        raise FileNotFoundError(
            f"{what}: protocol {protocol.name} is defined on {dataset.name}, available from {dataset.page}; "
            f"{dataset.prepare}"
        )
    return config.data


def _submit(config: EvaluateConfig, protocol: Protocol, folder: Path) -> int:
    """Write the file that a benchmark with hidden truth takes."""
    from rome_lightning.evaluation import submission

    images = submission.benchmark_images(_data(config, protocol))
    system = _avatar_system(config, protocol.resolution, 1.0)
    if system is None:
        raise ValueError(f"protocol {protocol.name} writes a model's meshes: give --checkpoint")
    steps = submission.write_submission(system, images, folder, submission.photo_tracker(system))
    shown = counted(steps, "meshes", len(images))
    failed = [(key, reason) for key, reason in shown if reason]
    for key, reason in failed:
        print(printable(f"rome: warning: {key} has no mesh: {reason}"), file=sys.stderr)
    wanted = protocol.dataset.num_clips
    if wanted not in (None, len(images)):
        print(f"rome: warning: {len(images)} images, the benchmark has {wanted}", file=sys.stderr)
    print(f"{folder / submission.FILE}: {len(images) - len(failed)} of {len(images)} images")
    return 1 if failed else 0


def _head(config: EvaluateConfig) -> HeadModel | None:
    """The head model that photographs are tracked with; None for systems that bring their own meshes."""
    from rome_lightning.evaluation.systems import read_avatar_config
    from rome_lightning.head import load_head
    from rome_lightning.models.shipped import open_model

    if config.untrained is not None:
        return load_head(read_avatar_config(config.untrained).head)
    if config.checkpoint is None:
        return None
    return open_model(config.checkpoint).head


def _synthetic(config: EvaluateConfig, rule: MeshRule, image_size: int) -> ClipSource:
    """Synthetic people of the head model under test, with their true meshes in millimetres."""
    from datamodules.evaluation import SyntheticPeople
    from rome_lightning.evaluation.geometry import SyntheticTruth
    from rome_lightning.head import load_head

    head = _head(config) or load_head("open")
    people = SyntheticPeople(head, rule.num_people, rule.frames_per_person, rule.seed, image_size)
    return SyntheticTruth(people, head, rule.regions)


def _mesh_system(config: EvaluateConfig, protocol: Protocol, pairs: list[PairItem]) -> MeshSystem:
    from rome_lightning.evaluation.geometry import AvatarMeshes, FolderMeshes

    avatars = _avatar_system(config, protocol.resolution, 1.0)
    if avatars is not None:
        return AvatarMeshes(avatars)
    if config.predictions is None or not config.predictions.is_dir():
        raise ValueError(
            f"protocol {protocol.name} compares meshes: give --checkpoint or a folder of --predictions"
        )
    return FolderMeshes(config.predictions, pairs)


def _avatar_system(config: EvaluateConfig, size: int, background: float) -> AvatarSystem | None:
    """A model of ours, if that is what is evaluated."""
    from rome_lightning.evaluation.systems import AvatarSystem, UntrainedSystem

    if config.untrained is not None:
        return UntrainedSystem(config.untrained, size, background, config.refine_steps, config.device)
    if config.checkpoint is not None:
        return AvatarSystem(config.checkpoint, size, background, config.refine_steps, config.device)
    return None


def _system(config: EvaluateConfig, protocol: Protocol, clips: ClipSource, pairs: list[PairItem]) -> System:
    from rome_lightning.evaluation.baselines import Baseline
    from rome_lightning.evaluation.predictions import FolderPredictions, VideoPredictions

    background = 0.0 if protocol.background == "black" else 1.0
    size = protocol.resolution
    if config.baseline is not None:
        return Baseline(config.baseline, clips, background)
    avatars = _avatar_system(config, size, background)
    if avatars is not None:
        return avatars
    assert config.predictions is not None
    if config.targets is not None:
        return VideoPredictions(config.predictions, config.targets, size)
    if config.predictions.is_file():
        raise ValueError(f"{config.predictions} is one video: --targets VIDEO says what it should equal")
    return FolderPredictions(config.predictions, pairs, size)


def finish(
    evaluation: Evaluation,
    scorer: Scorer,
    run: Path,
    keep_all_frames: bool = False,
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    speed: dict[str, float] | None = None,
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Write ``summary.json``, ``pairs.parquet``, pictures and page of an evaluation whose units are all done.

    Args:
        evaluation: with no unit missing.
        scorer: that scored it.
        run: folder of the training run, if there was one; its seed and configuration are noted.
        keep_all_frames: keep every picture, not only the examples.
        checkpoint: what was evaluated, for the summary.
        predictions: the same.
        speed: of the system's stages, if it was measured.

    Returns:
        Values of all pairs by task, and what ``summary.json`` holds.
    """
    from filelock import FileLock

    from rome_lightning.assets.registry import REGISTRY
    from rome_lightning.callbacks import code_and_versions
    from rome_lightning.evaluation import page, results

    folder = evaluation.folder
    with FileLock(folder / ".lock"):
        rows = results.collect(evaluation)
        results.write_pairs(evaluation, rows)
        networks = {name: REGISTRY[name].sha256 for name in scorer.networks}
        extra = {
            "system": evaluation.identity["system"],
            "checkpoint": str(checkpoint) if checkpoint else None,
            "predictions": str(predictions) if predictions else None,
            "speed": speed or {},
        }
        provenance = {**_run_facts(run), "code": code_and_versions()}
        summary = results.write_summary(evaluation, rows, networks, provenance, extra)
        sheets, kept = ({}, []) if evaluation.protocol.mesh else page.write_pictures(evaluation, rows, scorer)
        if not keep_all_frames:
            results.prune_frames(evaluation, kept)
        page.write_page(evaluation, rows, summary, sheets, _title(evaluation, run))
    return rows, summary


def _title(evaluation: Evaluation, run: Path) -> str:
    """Run, system and protocol, by which open pages are told apart."""
    return f"{run.resolve().name}: {evaluation.system.name} under {evaluation.protocol.name}"


def _speed(evaluation: Evaluation) -> dict[str, float]:
    """Speed of a model of ours, measured once and remembered."""
    from rome_lightning.evaluation.systems import AvatarSystem
    from rome_lightning.media.atomic import write_atomic

    if not isinstance(evaluation.system, AvatarSystem):
        return {}
    path = evaluation.parts / "speed.json"
    if not path.is_file():
        pair = evaluation.pairs[0]
        source = evaluation.clips.frames(pair.clip, [pair.source])
        driver = evaluation.clips.frames(pair.driver_clip, [pair.frame])
        write_atomic(path, json.dumps(evaluation.system.speed(source, driver)).encode())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _run_facts(run: Path) -> dict[str, Any]:
    """Seed of a training run, and a hash of its configuration that seeds of one configuration share."""
    from rome_lightning.evaluation.protocol import text_hash

    path = run / "config.yaml"
    if not path.is_file():
        return {"seed": None, "config_hash": None}
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    seed = settings.pop("seed_everything", None)
    for name in ("run_dir", "wandb", "memory_check", "ckpt_path", "config"):
        settings.pop(name, None)
    (settings.get("trainer") or {}).pop("default_root_dir", None)
    return {"seed": seed, "config_hash": text_hash(json.dumps(settings, sort_keys=True, default=str))}
