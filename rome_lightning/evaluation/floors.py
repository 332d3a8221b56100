"""Scores below the floor, and the likely reasons."""

from __future__ import annotations

from typing import Any

from rome_lightning.evaluation.metric_table import kind_of

_TREMBLING = ("dtssd", "jitter")
_PICTURES = ("psnr", "ssim", "l1", "lpips", "mask_iou", "fid", "iqa")
_MESHES = ("vertex", "chamfer", "normal", "f_score")


def below_floor(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the metrics of a task whose mean is worse than the floor.

    Args:
        metrics: aggregates by name, as in ``summary.json``.
    """
    names = []
    for name, cell in metrics.items():
        if cell["mean"] is None or cell["floor"] is None:
            continue
        gain = cell["mean"] - cell["floor"]
        if (gain if cell["higher_is_better"] else -gain) < 0:
            names.append(name)
    return names


def floor_note(task: str, metrics: dict[str, dict[str, Any]]) -> str:
    """A sentence for each reason why metrics of a task are below their floor; empty if none is.

    Args:
        task: name of the task.
        metrics: aggregates by name, as in ``summary.json``.
    """
    reasons: dict[str, list[str]] = {}
    for name in below_floor(metrics):
        reasons.setdefault(_reason(task, name), []).append(name)
    return " ".join(f"Below the floor: {', '.join(names)}: {reason}." for reason, names in reasons.items())


def _reason(task: str, name: str) -> str:
    if name.startswith(_TREMBLING):
        return "a copy stands still, so it has no jitter"
    if name.startswith(_MESHES):
        return "the head model without offsets is closer to the scan, so the offsets are harmful"
    if name.startswith("csim"):
        if kind_of(task) == "cross":
            return "the images resemble the source less than the driver's own face does"
        return "the copy is a real image of the person, which is hard to beat"
    if name.startswith(_PICTURES):
        return (
            "a copy keeps details that a model must synthesize, so it wins where source and driver hardly "
            "differ; the protocol turned sorts pairs by rotation"
        )
    return "a copy is closer to the driver: the drivers hardly move, or the model follows them poorly"
