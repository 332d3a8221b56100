"""Images and page of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rome_lightning.evaluation.bins import bins_table, largest_turns
from rome_lightning.evaluation.evaluator import Evaluation, write_png
from rome_lightning.evaluation.floors import floor_note
from rome_lightning.evaluation.groups import groups_tables
from rome_lightning.evaluation.metric_table import kind_of, result_name, spec_of
from rome_lightning.evaluation.pairs import PairItem
from rome_lightning.evaluation.results import Rows
from rome_lightning.evaluation.scoring import Scorer
from rome_lightning.evaluation.seen import RealImages
from rome_lightning.media.image import quantize
from rome_lightning.report.page import Media, Section, Table, write_report

CASES = ("worst", "median", "best")
TURNS = "pictures/largest_turns.png"
"""Sheet of the largest turn of each person, relative to the folder of an evaluation."""
_EXAMPLES = 3
"""Pairs per case."""
_DIGITS = {"dtssd": 4, "psnr": 2, "akd": 2, "apd": 2, "iqa": 2, "fid": 2, "chamfer": 2, "normal": 2}


def number(name: str, value: float | None) -> str:
    """A value with its significant digits; a dash if there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{_DIGITS.get(name.split('_')[0].split('/')[0], 3)}f}"


def task_table(name: str, metrics: dict[str, dict[str, Any]]) -> Table:
    """Aggregates of one task."""
    rows = []
    for metric, cell in metrics.items():
        arrow = "higher" if cell["higher_is_better"] else "lower"
        values = [number(metric, cell[key]) for key in ("mean", "penalised", "floor", "ceiling")]
        interval = cell.get("interval")
        values.insert(
            1, f"[{number(metric, interval[0])}, {number(metric, interval[1])}]" if interval else "-"
        )
        rows.append([metric, *values, str(cell["num"]), arrow])
    columns = ["metric", "mean", "95 % interval", "penalised", "floor", "ceiling", "num", "better"]
    return Table(columns, rows, name)


def failure_table(failures: dict[str, Any]) -> Table:
    """Counts of failures."""
    rows = []
    for task, counts in failures.items():
        reasons = ", ".join(f"{reason} ({n})" for reason, n in counts["reasons"].items()) or "-"
        keys = ("num_pairs", "num_missing", "num_undetected_prediction", "num_undetected_target")
        rows.append([task, *(str(counts[key]) for key in keys), reasons])
    return Table(
        ["task", "pairs", "missing", "no face in prediction", "no face in reference", "reasons"], rows
    )


def text_tables(summary: dict[str, Any]) -> str:
    """The tables for a terminal."""
    parts = []
    for task, metrics in summary["metrics"].items():
        note = floor_note(task, metrics)
        parts.append(f"{task}\n{task_table(task, metrics).as_text()}" + (f"\n{note}" if note else ""))
    if summary["bins"]:
        parts.append(bins_table(summary, number).as_text())
    parts += [f"{table.as_text()}\n{table.caption}" for table in groups_tables(summary, number).values()]
    return "\n\n".join([*parts, failure_table(summary["failures"]).as_text()])


def clip_table(rows: Rows, metrics: Sequence[str], clips: Sequence[str] | None = None) -> Table:
    """Means of each clip with the floor in brackets.

    Args:
        rows: of one task.
        metrics: names as in results.
        clips: keys of the sources' clips; all by default.
    """

    def mean(name: str, values: np.ndarray) -> str:
        return number(name, float(np.nanmean(values)) if np.isfinite(values).any() else None)

    lines = []
    for clip in dict.fromkeys(pair.clip for pair in rows.pairs):
        if clips is not None and clip not in clips:
            continue
        index = [i for i, pair in enumerate(rows.pairs) if pair.clip == clip]
        cells = [f"{mean(n, rows.values[n][index])} ({mean(n, rows.floor[n][index])})" for n in metrics]
        lines.append([clip, str(len(index)), *cells])
    caption = "Means over the frames of each clip; in brackets the floor."
    return Table(["clip", "pairs", *metrics], lines, caption)


def chosen_cases(rows: Rows, metric: str, higher_is_better: bool) -> dict[str, list[int]]:
    """Pairs at the ends and in the middle of a metric's order, at most one per clip and case."""
    value = rows.values[metric]
    order = [
        int(i)
        for i in np.argsort(value if higher_is_better else -value, kind="stable")
        if np.isfinite(value[i])
    ]
    middle = sorted(range(len(order)), key=lambda place: abs(place - len(order) // 2))
    ranked = {"worst": order, "median": [order[place] for place in middle], "best": order[::-1]}
    chosen = {}
    for case, candidates in ranked.items():
        seen: dict[str, int] = {}
        for index in candidates:
            seen.setdefault(rows.pairs[index].clip, index)
        chosen[case] = list(seen.values())[:_EXAMPLES]
    return chosen


def fixed_pairs(rows: Rows) -> list[int]:
    """The middle pair of each clip, the same for every system, so that runs can be compared side by side."""
    places: dict[tuple[str, str], list[int]] = {}
    for index, pair in enumerate(rows.pairs):
        places.setdefault((pair.clip, pair.driver_clip), []).append(index)
    return [members[len(members) // 2] for members in places.values()]


def write_pictures(
    evaluation: Evaluation, rows: dict[str, Rows], scorer: Scorer
) -> tuple[dict[str, dict[str, str]], list[PairItem]]:
    """Sheets of the worst, median and best cases, and the real frames that belong to kept ones.

    Returns:
        File of each sheet by task and case, relative to the evaluation's folder; and the pairs whose frames
        should be kept.
    """
    sheets: dict[str, dict[str, str]] = {}
    kept: list[PairItem] = []
    for task, of_task in rows.items():
        fixed = fixed_pairs(of_task)
        kept += [of_task.pairs[i] for i in fixed]
        metric = evaluation.protocol.tasks[task].examples_by
        if metric is None:
            continue
        name = result_name(metric, evaluation.protocol.resolution)
        for case, chosen in chosen_cases(of_task, name, spec_of(metric).higher_is_better).items():
            if not chosen:
                continue
            pairs = [of_task.pairs[i] for i in chosen]
            file = f"pictures/{task}_{case}.png"
            strips = [_strip(evaluation, scorer, pair) for pair in pairs]
            write_png(evaluation.folder / file, quantize(torch.cat(strips, dim=1)))
            sheets.setdefault(task, {})[case] = file
            kept += pairs
    turns = largest_turns(evaluation, rows)
    if turns:
        strips = [_strip(evaluation, scorer, pair) for pair in turns]
        write_png(evaluation.folder / TURNS, quantize(torch.cat(strips, dim=1)))
        kept += turns
    for pair in kept:
        _write_real(evaluation, scorer, pair)
    return sheets, kept


def _real(evaluation: Evaluation, scorer: Scorer, clip: str, frame: int) -> RealImages:
    return scorer.real(evaluation.clips.frames(clip, [frame]), [f"{clip}@{frame}"])


def _strip(evaluation: Evaluation, scorer: Scorer, pair: PairItem) -> Tensor:
    """Source, driver, prediction and, where there is a target, the difference (3, h, 4 w), [0, 1]."""
    source = _real(evaluation, scorer, pair.clip, pair.source).image[0]
    driver = _real(evaluation, scorer, pair.driver_clip, pair.frame).image[0]
    path = evaluation.folder / "frames" / f"{pair.path}.png"
    if path.is_file():
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB"))
        prediction = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    else:
        prediction = torch.full_like(driver, 0.5)
    columns = [source, driver, prediction]
    if kind_of(pair.task) != "cross":
        columns.append(
            (1 - 3 * (prediction - driver).abs().mean(0, keepdim=True)).clamp(0, 1).expand_as(driver)
        )
    return torch.cat(columns, dim=-1).clamp(0, 1)


def _write_real(evaluation: Evaluation, scorer: Scorer, pair: PairItem) -> None:
    """Real frames as they were scored, at ``frames/real/<clip>/<number>.png``."""
    for clip, frame in ((pair.clip, pair.source), (pair.driver_clip, pair.frame)):
        path = evaluation.folder / "frames" / "real" / clip / f"{frame:06d}.png"
        if not path.is_file():
            image = _real(evaluation, scorer, clip, frame).image[0]
            write_png(path, quantize(image))


def write_page(
    evaluation: Evaluation,
    rows: dict[str, Rows],
    summary: dict[str, Any],
    sheets: dict[str, dict[str, str]],
    title: str,
) -> Path:
    """Write ``report.html`` beside the summary."""
    protocol = evaluation.protocol
    sections = [_bins_section(summary)] if summary["bins"] else []
    if summary["groups"]:
        sections.append(_groups_section(summary))
    for task, metrics in summary["metrics"].items():
        pictures = [
            Media(
                file,
                f"{case} by {protocol.tasks[task].examples_by}: source, driver, prediction"
                + ("" if kind_of(task) == "cross" else ", difference (darker is larger)"),
            )
            for case, file in sheets.get(task, {}).items()
        ]
        names = [name for name in metrics if name in rows[task].values]
        sections.append(
            Section(
                f"Task: {task}",
                f"{_about(task)} {floor_note(task, metrics)}",
                tables=[
                    task_table("Means over frames, then clips, then people.", metrics),
                    clip_table(rows[task], names),
                ],
                pictures=pictures,
            )
        )
    sections.append(
        Section(
            "Failures",
            "A pair without a value is excluded from the mean and counts as the worst value in the "
            "penalised mean. Pairs in whose real frame a network finds no face are excluded from both.",
            tables=[failure_table(summary["failures"])],
        )
    )
    if summary.get("speed"):
        cells = [[name, f"{value:.3g}"] for name, value in summary["speed"].items()]
        sections.append(Section("Speed", "One frame at a time.", tables=[Table(["stage", "value"], cells)]))
    cells = [[name, sha256 or "-"] for name, sha256 in summary["networks"].items()]
    sections.append(Section("Networks", "", tables=[Table(["asset", "sha256"], cells)]))
    path = evaluation.folder / "report.html"
    lead = f"Protocol {protocol.name}, version {protocol.version}: {protocol.about}"
    if not summary["as_published"]:
        lead += (
            f" This dataset has {summary['num_clips']} clips, the published protocol "
            f"{protocol.dataset.num_clips}: the scores are not comparable with the published ones."
        )
    write_report(
        path, title, lead, sections, {k: v for k, v in summary.items() if k not in ("metrics", "groups")}
    )
    return path


def _bins_section(summary: dict[str, Any]) -> Section:
    return Section(
        "By rotation between source and driver",
        "Angle between the tracked heads of source and driver; each bin is a task below.",
        tables=[bins_table(summary, number)],
        pictures=[Media(TURNS, "Largest turn of each person: source, driver, prediction, difference.")],
    )


def _groups_section(summary: dict[str, Any]) -> Section:
    return Section(
        "By group",
        "Each group on its own, by the person in the source image, so that no mean hides one. Intervals that "
        "overlap do not show a difference.",
        tables=list(groups_tables(summary, number).values()),
    )


def _about(task: str) -> str:
    if kind_of(task) == "cross":
        return (
            "Another person drives. Floor: the source copied unchanged; for csim the driver's own frame, "
            "that is, the wrong person. Ceiling: the ground truth against itself."
        )
    return (
        "The same person drives. Floor: the source copied unchanged. "
        "Ceiling: the ground truth against itself."
    )
