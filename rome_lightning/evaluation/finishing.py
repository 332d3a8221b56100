"""From scored units to the output files: summary, table of pairs, images and page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from rome_lightning.assets.registry import REGISTRY
from rome_lightning.evaluation import page, results
from rome_lightning.evaluation.evaluator import Evaluation
from rome_lightning.evaluation.groups import Groups, group_scores, write_groups
from rome_lightning.evaluation.protocol import text_hash
from rome_lightning.evaluation.results import Rows
from rome_lightning.evaluation.scoring import Scorer
from rome_lightning.evaluation.systems import AvatarSystem
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.provenance import code_and_versions


def finish(
    evaluation: Evaluation,
    scorer: Scorer,
    run: Path,
    keep_all_frames: bool = False,
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    speed: dict[str, float] | None = None,
    groups: Groups | None = None,
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Write ``summary.json``, ``pairs.parquet``, pictures and page of an evaluation without missing units.

    With groups, ``groups.csv`` and ``groups.md`` too.

    Args:
        evaluation: whose units are all scored.
        scorer: what scored them.
        run: folder of the training run, if there was one; its seed and configuration are noted.
        keep_all_frames: keep every image, not only the examples.
        checkpoint: what was evaluated, for the summary.
        predictions: the same.
        speed: of the system's stages, if it was measured.
        groups: of the people, to be scored apart.

    Returns:
        Values of all pairs by task, and the content of ``summary.json``.
    """
    with FileLock(evaluation.folder / ".lock"):
        rows = results.collect(evaluation)
        results.write_pairs(evaluation, rows)
        networks = {name: REGISTRY[name].sha256 for name in scorer.networks}
        extra = {
            "system": evaluation.identity["system"],
            "photo_size": evaluation.photo_size,
            "checkpoint": str(checkpoint) if checkpoint else None,
            "predictions": str(predictions) if predictions else None,
            "speed": speed or {},
            "groups": {} if groups is None else group_scores(evaluation, rows, groups),
        }
        provenance = {**_run_facts(run), "code": code_and_versions()}
        summary = results.write_summary(evaluation, rows, networks, provenance, extra)
        write_groups(evaluation.folder, summary, page.number)
        sheets, kept = ({}, []) if evaluation.protocol.mesh else page.write_pictures(evaluation, rows, scorer)
        if not keep_all_frames:
            results.prune_frames(evaluation, kept)
        page.write_page(evaluation, rows, summary, sheets, _title(evaluation, run))
    return rows, summary


def _title(evaluation: Evaluation, run: Path) -> str:
    """Run, system and protocol, which distinguish open pages."""
    return f"{run.resolve().name}: {evaluation.system.name} under {evaluation.protocol.name}"


def measured_speed(evaluation: Evaluation) -> dict[str, float]:
    """Speed of an avatar model as ``AvatarSystem.speed`` gives it, measured once; {} for other systems."""
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
    path = run / "config.yaml"
    if not path.is_file():
        return {"seed": None, "config_hash": None}
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    seed = settings.pop("seed_everything", None)
    for name in ("run_dir", "wandb", "memory_check", "ckpt_path", "config"):
        settings.pop(name, None)
    (settings.get("trainer") or {}).pop("default_root_dir", None)
    return {"seed": seed, "config_hash": text_hash(json.dumps(settings, sort_keys=True, default=str))}
