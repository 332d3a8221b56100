"""Score a system under a protocol, from options to results: the workflow of ``rome evaluate``."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from datamodules.evaluation import StoredClips, SyntheticPeople
from rome_lightning.evaluation import submission
from rome_lightning.evaluation.baselines import Baseline
from rome_lightning.evaluation.evaluator import Evaluation
from rome_lightning.evaluation.finishing import finish, measured_speed
from rome_lightning.evaluation.geometry import (
    AvatarMeshes,
    FolderMeshes,
    GeometryEvaluation,
    MeshSource,
    MeshSystem,
    ScannedPeople,
    SyntheticTruth,
)
from rome_lightning.evaluation.groups import Groups, check_people, read_groups
from rome_lightning.evaluation.pairs import ClipSource, PairItem, PhotoSource, impossible_tasks, pairs_of
from rome_lightning.evaluation.predictions import (
    FolderPredictions,
    VideoPredictions,
    VideoTargets,
    for_videos,
)
from rome_lightning.evaluation.protocol import MeshRule, Protocol, load_protocol
from rome_lightning.evaluation.scoring import Scorer
from rome_lightning.evaluation.systems import AvatarSystem, System, UntrainedSystem, read_avatar_config
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.locks import owned
from rome_lightning.models.shipped import open_model
from rome_lightning.workflows.options import EvaluateConfig
from rome_lightning.workflows.reporter import Reporter
from rome_lightning.workflows.scored_clips import stored_clips


@dataclass(frozen=True)
class Scores:
    """Output of an evaluation."""

    folder: Path
    """With ``summary.json``, ``pairs.parquet`` and ``report.html``."""
    summary: dict[str, Any]
    """Content of ``summary.json``."""

    def means(self) -> dict[str, float | None]:
        """Mean of each metric by ``task/metric``; None where nothing could be scored."""
        return {
            f"{task}/{metric}": values["mean"]
            for task, metrics in self.summary["metrics"].items()
            for metric, values in metrics.items()
        }


@dataclass(frozen=True)
class Submission:
    """The file for a benchmark with hidden ground truth."""

    path: Path
    num_images: int
    failed: dict[str, str]
    """Why an image has no mesh, by its key."""


def results_folder(config: EvaluateConfig) -> Path:
    """The folder for results."""
    return _run_folder(config) / "evaluation" / _protocol(config).name


def clear_results(config: EvaluateConfig) -> None:
    """Delete the results of an earlier evaluation."""
    folder = results_folder(config)
    if folder.exists():
        shutil.rmtree(folder)


def writes_submission(config: EvaluateConfig) -> bool:
    """Whether the protocol's ground truth is hidden, so that the result is a submission instead of scores."""
    rule = _protocol(config).mesh
    return rule is not None and rule.kind == "submission"


def evaluate(
    config: EvaluateConfig, rank: int = 0, world_size: int = 1, reporter: Reporter | None = None
) -> Scores | None:
    """Score this process's share of the pairs, and write the results if it is the last one.

    Args:
        config: with a protocol and one system.
        rank: of this process.
        world_size: processes that share the work, each with a call of its own.
        reporter: shows progress on the first process, and warnings.

    Returns:
        The scores; None while other processes still have units to score.

    Raises:
        FileNotFoundError: data or system do not exist.
        ValueError: the options conflict, or the folder has another evaluation.
    """
    with _owned(config, rank):
        return _evaluate(config, rank, world_size, reporter or Reporter())


def submit(config: EvaluateConfig, reporter: Reporter | None = None) -> Submission:
    """Write a submission; finished images of an earlier call are kept.

    Raises:
        FileNotFoundError: the images of the benchmark do not exist.
        ValueError: the system is not a model.
    """
    reporter = reporter or Reporter()
    protocol, folder = _protocol(config), results_folder(config)
    with _owned(config, 0):
        if config.restart:
            clear_results(config)
        if config.photo_size is not None:
            raise ValueError("photo_size has no meaning for submissions, which are meshes; leave it out")
        images = submission.benchmark_images(_data(config, protocol))
        system = _avatar_system(config, protocol.resolution, 1.0)
        if system is None:
            raise ValueError(f"protocol {protocol.name} writes a model's meshes: give --checkpoint")
        steps = submission.write_submission(system, images, folder, submission.photo_tracker(system))
        shown = reporter.track(steps, "meshes", len(images))
        failed = {key: reason for key, reason in shown if reason}
    wanted = protocol.dataset.num_clips
    if wanted not in (None, len(images)):
        reporter.warn(f"{len(images)} images, the benchmark has {wanted}")
    return Submission(folder / submission.FILE, len(images), failed)


def _owned(config: EvaluateConfig, rank: int) -> AbstractContextManager[None]:
    """The lock of one process: beside the folder, which ``restart`` deletes."""
    folder = results_folder(config)
    return owned(folder.parent, f"rome evaluate to {folder}", f".{folder.name}.{rank}.lock")


def _evaluate(config: EvaluateConfig, rank: int, world_size: int, reporter: Reporter) -> Scores | None:
    folder, protocol = results_folder(config), _protocol(config)
    if config.restart and world_size == 1:
        clear_results(config)
    if config.targets is not None:
        protocol = for_videos(protocol)
    groups = None if config.groups is None else read_groups(config.groups)
    clips = _clips(config, protocol, reporter)
    assert config.protocol is not None
    pairs = pairs_of(protocol, config.protocol, clips.clips)
    if groups is not None:
        _check_groups(config, groups, clips, pairs)
    if rank == 0:
        for task, reason in impossible_tasks(protocol, clips.clips).items():
            reporter.warn(f"task {task} is skipped: {reason}")
    if config.photo_size is not None and not _may_enlarge(config, protocol, clips):
        raise ValueError(
            "--photo_size is for models and baselines on a dataset of `rome prepare`; leave it out with "
            "--predictions, --targets and protocols that compare meshes"
        )
    if config.photo_size is not None:
        if config.photo_size < protocol.resolution:
            raise ValueError(
                f"photo_size {config.photo_size} is below the {protocol.resolution} pixels that are scored"
            )
        # Refused before the results are claimed.
        cast("PhotoSource", clips).photo(pairs[0].clip, pairs[0].source, config.photo_size)
    if protocol.mesh is None:
        system = _system(config, protocol, clips, pairs)
        evaluation = Evaluation(protocol, pairs, clips, system, folder, config.photo_size)
    else:
        meshes = _mesh_system(config, protocol, pairs)
        evaluation = GeometryEvaluation(protocol, pairs, cast("MeshSource", clips), meshes, folder)
    evaluation.open()
    scorer = Scorer(protocol, config.device)
    units = evaluation.share(rank, world_size)
    with closing((reporter if rank == 0 else Reporter()).track(units, "scoring")) as shown:
        evaluation.run(shown, scorer)
    if evaluation.missing():
        return None
    keep_all = config.keep_frames == "all"
    given = config.checkpoint, config.predictions
    speed, run = measured_speed(evaluation), _run_folder(config)
    return Scores(folder, finish(evaluation, scorer, run, keep_all, *given, speed, groups)[1])


def _check_groups(config: EvaluateConfig, groups: Groups, clips: ClipSource, pairs: list[PairItem]) -> None:
    """Before the scoring, which takes long."""
    assert config.groups is not None
    known = {clip.identity for clip in clips.clips}
    if isinstance(clips, StoredClips):
        known |= clips.manifest.people
        # People without a usable picture are in no split; the manifest has only the paths of their files.
        failed = [Path(failure["input"]) for failure in clips.manifest.failed]
        known |= {name for path in failed for name in (*path.parts, path.stem)}
    check_people(groups, config.groups, {pair.identity for pair in pairs}, known)


def _protocol(config: EvaluateConfig) -> Protocol:
    assert config.protocol is not None
    return load_protocol(config.protocol)


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


def _clips(config: EvaluateConfig, protocol: Protocol, reporter: Reporter) -> ClipSource:
    if config.targets is not None:
        return VideoTargets(config.targets, protocol.resolution)
    rule = protocol.mesh
    if rule is not None and rule.kind == "synthetic":
        return _synthetic(config, rule, protocol.resolution)
    if rule is not None:
        return ScannedPeople(_data(config, protocol), _head(config), protocol.resolution, rule.unit_mm)
    run = None if config.checkpoint is None else _run_folder(config)
    return stored_clips(_data(config, protocol), protocol, config.split, run, reporter)


def _data(config: EvaluateConfig, protocol: Protocol) -> Path:
    """The dataset.

    Raises:
        FileNotFoundError: it does not exist; the message says where to get it.
    """
    if config.data is None or not config.data.exists():
        what = "--data is not given" if config.data is None else f"there is no dataset at {config.data}"
        dataset = protocol.dataset
        raise FileNotFoundError(
            f"{what}: protocol {protocol.name} is defined on {dataset.name}, available from {dataset.page}; "
            f"{dataset.prepare}"
        )
    return config.data


def _head(config: EvaluateConfig) -> HeadModel | None:
    """The head model for tracking photographs; None for systems that provide their own meshes."""
    if config.untrained is not None:
        return load_head(read_avatar_config(config.untrained).head)
    if config.checkpoint is None:
        return None
    return open_model(config.checkpoint).head


def _synthetic(config: EvaluateConfig, rule: MeshRule, image_size: int) -> ClipSource:
    """Synthetic people of the tested head model, with ground-truth meshes in millimetres."""
    head = _head(config) or load_head("open")
    people = SyntheticPeople(head, rule.num_people, rule.frames_per_person, rule.seed, image_size)
    return SyntheticTruth(people, head, rule.regions)


def _may_enlarge(config: EvaluateConfig, protocol: Protocol, clips: ClipSource) -> bool:
    return config.predictions is None and protocol.mesh is None and isinstance(clips, PhotoSource)


def _mesh_system(config: EvaluateConfig, protocol: Protocol, pairs: list[PairItem]) -> MeshSystem:
    avatars = _avatar_system(config, protocol.resolution, 1.0)
    if avatars is not None:
        return AvatarMeshes(avatars)
    if config.predictions is None or not config.predictions.is_dir():
        raise ValueError(
            f"protocol {protocol.name} compares meshes: give --checkpoint or a folder of --predictions"
        )
    return FolderMeshes(config.predictions, pairs)


def _avatar_system(config: EvaluateConfig, size: int, background: float) -> AvatarSystem | None:
    """Our model, if the system is one."""
    options = (size, background, config.refine_steps, config.device, config.photo_size)
    if config.untrained is not None:
        return UntrainedSystem(config.untrained, *options)
    if config.checkpoint is not None:
        return AvatarSystem(config.checkpoint, *options)
    return None


def _system(config: EvaluateConfig, protocol: Protocol, clips: ClipSource, pairs: list[PairItem]) -> System:
    background = 0.0 if protocol.background == "black" else 1.0
    size = protocol.resolution
    if config.baseline is not None:
        return Baseline(config.baseline, clips, background, size)
    avatars = _avatar_system(config, size, background)
    if avatars is not None:
        return avatars
    assert config.predictions is not None
    if config.targets is not None:
        return VideoPredictions(config.predictions, config.targets, size)
    if config.predictions.is_file():
        raise ValueError(
            f"{config.predictions} is a single video; pass the video to compare it with as --targets VIDEO"
        )
    return FolderPredictions(config.predictions, pairs, size)
