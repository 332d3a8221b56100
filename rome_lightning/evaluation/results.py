"""From the values of pairs to a table: exact means, counts of failures, summary.json and pairs.parquet."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy import stats
from torch import Tensor

from rome_lightning.evaluation.evaluator import Evaluation, Part
from rome_lightning.evaluation.metric_table import result_name, spec_of
from rome_lightning.evaluation.pairs import PairItem
from rome_lightning.evaluation.protocol import text_hash
from rome_lightning.media.atomic import write_atomic
from rome_lightning.metrics import acceleration, frechet_distance
from rome_lightning.metrics.fid import Moments


@dataclass
class Rows:
    """All pairs of one task with their values, one entry per pair in every list."""

    pairs: list[PairItem]
    values: dict[str, np.ndarray]
    defined: dict[str, np.ndarray]
    floor: dict[str, np.ndarray]
    undetected_prediction: np.ndarray
    undetected_target: np.ndarray
    reasons: list[str]
    features: dict[str, Moments] = field(default_factory=dict)
    """Moments of Inception features: of the predictions, of real frames, of the sources."""

    def of_people(self, people: Collection[str]) -> Rows:
        """The pairs whose source shows one of some people; without moments, which are of all together."""
        index = [place for place, pair in enumerate(self.pairs) if pair.identity in people]
        return Rows(
            [self.pairs[place] for place in index],
            {name: value[index] for name, value in self.values.items()},
            {name: value[index] for name, value in self.defined.items()},
            {name: value[index] for name, value in self.floor.items()},
            self.undetected_prediction[index],
            self.undetected_target[index],
            [self.reasons[place] for place in index],
        )


def hierarchical_mean(values: Sequence[float], clips: Sequence[str], people: Sequence[str]) -> float:
    """Mean over people of means over their clips of means over frames; NaN entries are left out.

    Args:
        values: one per frame.
        clips: of each frame.
        people: of each frame.
    """
    frames: dict[tuple[str, str], list[float]] = {}
    for value, clip, person in zip(values, clips, people, strict=True):
        if not math.isnan(value):
            frames.setdefault((person, clip), []).append(float(value))
    of_people: dict[str, list[float]] = {}
    for (person, _), members in frames.items():
        of_people.setdefault(person, []).append(math.fsum(members) / len(members))
    means = [math.fsum(members) / len(members) for members in of_people.values()]
    return math.fsum(means) / len(means) if means else math.nan


def people_interval(
    values: Sequence[float], clips: Sequence[str], people: Sequence[str]
) -> tuple[float, float] | None:
    """95 % confidence interval of the mean over all people; None for fewer than two people.

    Student's t on the means of people, which are the independent sample; arguments as for
    ``hierarchical_mean``.
    """
    of_people = [
        hierarchical_mean(
            [v if p == person else math.nan for v, p in zip(values, people, strict=True)], clips, people
        )
        for person in dict.fromkeys(people)
    ]
    means = np.array([mean for mean in of_people if not math.isnan(mean)])
    if len(means) < 2:
        return None
    half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
    return float(means.mean() - half), float(means.mean() + half)


def collect(evaluation: Evaluation) -> dict[str, Rows]:
    """Values of all finished units by task."""
    by_task: dict[str, list[Part]] = {}
    features: dict[str, dict[str, Moments]] = {}
    seen: set[tuple[str, str, str, int]] = set()
    for unit in evaluation.units:
        part, task = evaluation.load(unit), unit.pairs[0].task
        if "inception" in part.tensors:
            _add_features(features.setdefault(task, {}), part, seen)
        by_task.setdefault(task, []).append(part)
    rows = {task: _rows(evaluation, task, parts) for task, parts in by_task.items()}
    for task, of_task in features.items():
        rows[task].features = of_task
    return rows


def _add_features(sums: dict[str, Moments], part: Part, seen: set[tuple[str, str, str, int]]) -> None:
    """Add a part's Inception features to the moments and drop them; real frames count once per task."""
    for name in ("inception", "inception_real", "inception_source"):
        rows = part.tensors.pop(name)
        chosen = list(range(len(rows)))
        if name == "inception_real":
            keys = [(name, p.task, p.driver_clip, p.frame) for p in part.unit.pairs]
            chosen = [i for i, key in enumerate(keys) if key not in seen and key not in keys[:i]]
            seen.update(keys)
        if name == "inception_source":
            key = (name, part.unit.pairs[0].task, part.unit.pairs[0].clip, part.unit.pairs[0].source)
            chosen = [] if key in seen else chosen
            seen.add(key)
        sums.setdefault(name, Moments(rows.shape[1])).add(rows[chosen])


def _rows(evaluation: Evaluation, task: str, parts: list[Part]) -> Rows:
    def stacked(name: str) -> np.ndarray:
        return torch.cat([part.tensors[name] for part in parts]).numpy()

    def group(prefix: str) -> dict[str, np.ndarray]:
        names = [name for name in parts[0].tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): stacked(name) for name in sorted(names)}

    rows = Rows(
        [pair for part in parts for pair in part.unit.pairs],
        group("values/"),
        group("defined/"),
        group("floor/"),
        stacked("undetected_prediction"),
        stacked("undetected_target"),
        [reason for part in parts for reason in part.reasons],
    )
    protocol = evaluation.protocol
    if "jitter_px" in protocol.tasks[task].metrics:
        order = {clip.key: {n: i for i, n in enumerate(clip.frames)} for clip in evaluation.clips.clips}
        places = [order[pair.driver_clip][pair.frame] for pair in rows.pairs]
        ours = torch.cat([part.tensors["landmarks"] for part in parts])
        theirs = torch.cat([part.tensors["driver_landmarks"] for part in parts])
        name = result_name("jitter_px", protocol.resolution)
        _add_jitter(rows, name, places, ours, theirs)
    return rows


def _add_jitter(rows: Rows, name: str, places: Sequence[int], ours: Tensor, theirs: Tensor) -> None:
    """Jitter of each frame whose neighbours in time were scored too."""
    known = {
        (*_clip_of(pair), place): i for i, (pair, place) in enumerate(zip(rows.pairs, places, strict=True))
    }
    value = np.full(len(rows.pairs), np.nan, np.float32)
    floor, defined = value.copy(), np.zeros(len(rows.pairs), bool)
    for index, (pair, place) in enumerate(zip(rows.pairs, places, strict=True)):
        before, after = (known.get((*_clip_of(pair), place + step)) for step in (-1, 1))
        if before is None or after is None:
            continue
        triple = [before, index, after]
        still = acceleration(theirs[triple])[0]
        defined[index] = not bool(still.isnan())
        value[index] = float(acceleration(ours[triple])[0] - still)
        floor[index] = -float(still)
    rows.values[name], rows.floor[name], rows.defined[name] = value, floor, defined


def _clip_of(pair: PairItem) -> tuple[str, int, str]:
    return pair.clip, pair.source, pair.driver_clip


def metric_table(evaluation: Evaluation, rows: dict[str, Rows]) -> dict[str, dict[str, dict[str, Any]]]:
    """Aggregates by task and metric, as ``summary.json`` holds them."""
    return {task: _task_table(evaluation, task, of_task) for task, of_task in rows.items() if of_task.pairs}


def _task_table(evaluation: Evaluation, task: str, rows: Rows) -> dict[str, dict[str, Any]]:
    clips = [pair.clip for pair in rows.pairs]
    people = [pair.identity for pair in rows.pairs]
    resolution = evaluation.protocol.resolution
    table = {}
    for metric in evaluation.protocol.tasks[task].metrics:
        spec, name = spec_of(metric), result_name(metric, resolution)
        if metric == "fid_inception" and rows.features:
            table[name] = _fid(rows)
        if name not in rows.values:
            continue
        value, defined = rows.values[name], rows.defined[name]
        worst = resolution / 2 if spec.unit == "px" else spec.worst
        filled = value.copy()
        if worst is not None:
            filled[defined & np.isnan(value)] = worst
        known = np.isfinite(value)
        table[name] = {
            "mean": _json(hierarchical_mean(value.tolist(), clips, people)),
            "interval": people_interval(value.tolist(), clips, people),
            "penalised": _json(hierarchical_mean(filled.tolist(), clips, people)),
            "num": int(known.sum()),
            "num_clips": len({clip for clip, there in zip(clips, known, strict=True) if there}),
            "num_people": len({person for person, there in zip(people, known, strict=True) if there}),
            "higher_is_better": spec.higher_is_better,
            "ceiling": spec.ceiling,
            "worst": worst,
            "floor": _json(hierarchical_mean(rows.floor[name].tolist(), clips, people)),
        }
    return table


def _fid(rows: Rows) -> dict[str, Any]:
    """Distance of all predictions to all different driver frames."""
    ours, real, copied = (rows.features[n] for n in ("inception", "inception_real", "inception_source"))

    def distance(moments: Moments) -> float | None:
        if min(moments.count, real.count) < 2:
            return None
        return frechet_distance(*moments.mean_and_covariance(), *real.mean_and_covariance())

    return {
        "mean": distance(ours),
        "penalised": distance(ours),
        "num": ours.count,
        "num_real": real.count,
        "higher_is_better": False,
        "ceiling": 0.0,
        "worst": None,
        "floor": distance(copied),
    }


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def failures(rows: dict[str, Rows]) -> dict[str, Any]:
    """Counts by task."""
    return {
        task: {
            "num_pairs": len(r.pairs),
            "num_missing": sum(bool(reason) for reason in r.reasons),
            "num_undetected_prediction": int(r.undetected_prediction.sum()),
            "num_undetected_target": int(r.undetected_target.sum()),
            "reasons": dict(Counter(_general(reason) for reason in r.reasons if reason)),
        }
        for task, r in rows.items()
    }


def _general(reason: str) -> str:
    """A reason without the details of one frame."""
    return reason.split(":")[0]


def write_pairs(evaluation: Evaluation, rows: dict[str, Rows]) -> None:
    """``pairs.parquet``: a row per pair, NaN where a metric has no value."""
    metrics = sorted({name for r in rows.values() for name in r.values})
    columns: dict[str, list[Any]] = {
        name: [] for name in ("task", "identity", "clip", "source", "frame", "driver_identity")
    }
    columns |= {name: [] for name in (*metrics, "undetected_prediction", "undetected_target", "rotation_deg")}
    for task, r in rows.items():
        count = len(r.pairs)
        columns["task"] += [task] * count
        columns["identity"] += [pair.identity for pair in r.pairs]
        columns["clip"] += [pair.clip for pair in r.pairs]
        columns["source"] += [pair.source_id for pair in r.pairs]
        columns["frame"] += [pair.frame_id for pair in r.pairs]
        columns["driver_identity"] += [pair.driver_identity for pair in r.pairs]
        for name in metrics:
            columns[name] += r.values[name].astype(float).tolist() if name in r.values else [math.nan] * count
        columns["undetected_prediction"] += r.undetected_prediction.tolist()
        columns["undetected_target"] += r.undetected_target.tolist()
        columns["rotation_deg"] += [evaluation.rotation(pair) for pair in r.pairs]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomic(evaluation.folder / "pairs.parquet", buffer.getvalue())


def write_summary(
    evaluation: Evaluation,
    rows: dict[str, Rows],
    networks: dict[str, str | None],
    provenance: dict[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Write ``summary.json`` and return what it holds.

    Args:
        evaluation: finished.
        rows: its values.
        networks: sha256 by asset.
        provenance: ``code``, ``seed``, ``config_hash``.
        extra: what else is known of the system, such as ``checkpoint``, ``speed`` and ``groups``.
    """
    protocol = evaluation.protocol
    wanted = protocol.dataset.num_clips
    num_clips = len({pair.clip for pair in evaluation.pairs})
    summary: dict[str, Any] = {
        "format": "rome-evaluation/1",
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "protocol_hash": protocol.hash,
        "pairs_hash": text_hash(evaluation.pair_list),
        "dataset": evaluation.clips.name,
        "dataset_hash": evaluation.clips.hash,
        "num_clips": num_clips,
        "bins": {name: angles for name, angles in protocol.bins.items() if name in rows},
        "tasks_without_pairs": [name for name in protocol.tasks if name not in rows],
        "as_published": wanted is None or wanted == num_clips,
        "metrics": metric_table(evaluation, rows),
        "failures": failures(rows),
        "networks": networks,
        **extra,
        **provenance,
    }
    write_atomic(evaluation.folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def prune_frames(evaluation: Evaluation, kept: Iterable[PairItem]) -> None:
    """Delete the pictures of all other pairs."""
    folder = evaluation.folder / "frames"
    names = {f"{pair.path}.png" for pair in kept}
    for pair in evaluation.pairs:
        if f"{pair.path}.png" not in names:
            (folder / f"{pair.path}.png").unlink(missing_ok=True)
