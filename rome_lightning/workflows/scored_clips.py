"""Choose the frames of a dataset that an evaluation scores."""

from __future__ import annotations

from pathlib import Path

import yaml

from datamodules.evaluation import StoredClips
from datamodules.manifest import Manifest
from rome_lightning.evaluation.protocol import Protocol
from rome_lightning.workflows.reporter import Reporter

HELD_OUT_RATIO = 0.2
"""Share at the end of each training clip that is scored if no people were reserved for validation."""


def stored_clips(
    data: Path, protocol: Protocol, split: str | None, run: Path | None, reporter: Reporter
) -> StoredClips:
    """Clips of the requested split, or else the last frames of the training clips, with a warning.

    Args:
        data: manifest or folder of the dataset.
        protocol: names the split by default.
        split: requested by the user; then nothing else is scored.
        run: folder of the training, if there was one: it tells which frames were held out.
        reporter: takes the warning.
    """
    wanted = split or protocol.dataset.split
    manifest = Manifest.load(data, check_files=False)
    if split is not None or manifest.split(wanted) or not manifest.split("train"):
        return StoredClips(data, wanted, protocol.resolution)
    held_out = _held_out(run)
    ratio = held_out or HELD_OUT_RATIO
    if held_out:
        seen = "which training held out; it saw these people"
    elif run is not None:
        seen = "which training may have seen: data.init_args.holdout_ratio was 0"
    else:
        seen = "which a training with holdout_ratio holds out"
    reporter.warn(
        f"{data} has no split {wanted!r}; scoring the last {ratio:.0%} of each training clip, {seen}. To "
        "score people that training does not see, use rome prepare --val-identities"
    )
    return StoredClips(data, "train", protocol.resolution, ratio)


def _held_out(run: Path | None) -> float:
    """Share of each clip that a training held out; 0 if unknown."""
    path = None if run is None else run / "config.yaml"
    if path is None or not path.is_file():
        return 0.0
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = (settings.get("data") or {}).get("init_args") or {}
    return float(options.get("holdout_ratio") or 0.0)
