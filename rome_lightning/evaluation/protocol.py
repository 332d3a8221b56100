"""A protocol: everything that must be fixed before two numbers are comparable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser

from rome_lightning.assets.registry import REGISTRY
from rome_lightning.evaluation.metric_table import kind_of, spec_of

FORMAT = "rome-protocol/1"
"""First entry of every protocol file; other formats are refused."""


@dataclass(frozen=True)
class DatasetRule:
    """Which data the protocol is defined on."""

    name: str
    """For people."""
    page: str
    """Where to get the data, and on which terms."""
    prepare: str
    """How to turn them into what ``--data`` takes."""
    split: str = "val"
    """Split of the manifest that is scored: ``train``, ``val`` or ``test``."""
    num_clips: int | None = None
    """Clips of the published protocol; a dataset with another number is scored, but said to differ."""


@dataclass(frozen=True)
class PairRule:
    """Which source drives to which frame."""

    kind: Literal["within_clip", "next_identity"] = "within_clip"
    """``within_clip``: frames of the source's own clip. ``next_identity``: identity i drives i + 1 in
    sorted order, cyclic, each with its first clip."""
    source: Literal["first", "typical"] = "first"
    """Source frame of a clip: its first, or the one whose expression is nearest to the clip's median."""
    frames: Literal["evenly", "consecutive", "turning", "all", "own"] = "evenly"
    """Driver frames of a clip: evenly spaced, the first ones in a row, those in a row over which the head
    turns most, all, or only the source frame itself."""
    num_frames: int = 8
    """Largest number of driver frames per clip (not for ``all`` and ``own``)."""
    rotation_deg: list[float] | None = None
    """Only drivers whose head is turned from the source's by at least the first and less than the second of
    two angles, degrees."""
    max_eye_opening: float | None = None
    """Only drivers whose eyes are open at most this far, see ``rome_lightning.geometry.openings``."""
    min_mouth_opening: float | None = None
    """Only drivers whose mouth is open at least this far, see there."""
    include_source: bool = False
    """Whether the source frame itself may be driven to."""
    file: str | None = None
    """Pair list beside the protocol; replaces the rule."""

    @property
    def needs_two_frames(self) -> bool:
        """Whether another frame of the source's clip is the driver."""
        return self.kind == "within_clip" and self.frames != "own" and not self.include_source

    @property
    def selects(self) -> bool:
        """Whether drivers are chosen by content, so that a dataset may have none."""
        return any(x is not None for x in (self.rotation_deg, self.max_eye_opening, self.min_mouth_opening))


@dataclass(frozen=True)
class Task:
    """One kind of question and the metrics that answer it."""

    metrics: list[str]
    """Metric names as in ``docs/evaluation.md``; ``/full``, ``/masked``, ``/crop`` choose the pixels."""
    pairs: PairRule = field(default_factory=PairRule)
    """Which pairs are scored."""
    examples_by: str | None = None
    """Metric that orders the worst, median and best cases of the report."""


@dataclass(frozen=True)
class CropRule:
    """Square around the target's five facial points that ``/crop`` metrics see."""

    scale: float = 3.0
    """Side of the square over the longer side of the points' box."""
    max_px: int = 512
    """The side is at most this, pixels of the protocol's resolution."""


@dataclass(frozen=True)
class FailurePolicy:
    """What happens to frames that cannot be scored."""

    missing: Literal["count", "refuse"] = "count"
    """Predictions that are absent, of another size or not finite: counted, or the evaluation stops."""
    undetected: Literal["count", "refuse"] = "count"
    """Predictions in which a network finds no face."""


@dataclass(frozen=True)
class MeshRule:
    """How meshes are compared (geometry protocols only)."""

    kind: Literal["synthetic", "scans", "submission"] = "synthetic"
    """Synthetic heads with exact ground truth, a folder of scanned meshes, or a file for a benchmark with
    hidden ground truth."""
    alignment: Literal["none", "rigid", "similarity"] = "none"
    """Procrustes on landmarks, then ICP; ``similarity`` fits the scale too."""
    direction: Literal["truth_to_prediction", "both"] = "both"
    """Distances from points of the truth to the prediction, or the mean of both ways."""
    radius_mm: float | None = None
    """Only the truth within this distance of its landmarks' centre is scored; null for all."""
    regions: list[str] = field(default_factory=list)
    """Regions of the head model with separate scores."""
    unit_mm: float = 1.0
    """Millimetres per unit of the scans."""
    f_score_mm: float = 5.0
    """Distance within which a point counts as found, millimetres."""
    num_points: int = 20000
    """Points sampled on each surface."""
    num_people: int = 10
    """Synthetic people."""
    frames_per_person: int = 2
    """Synthetic frames per person: the first is the source, the others are driven to."""
    seed: int = 1000
    """Of the synthetic people; other than that of training data."""


@dataclass(frozen=True)
class Protocol:
    """A versioned evaluation; see ``docs/evaluation.md``."""

    name: str
    """Short, names the folder of the results."""
    version: int
    """Increases when a change alters scores."""
    about: str
    """What it measures, and who defined it."""
    dataset: DatasetRule
    """Which data."""
    tasks: dict[str, Task]
    """By name: ``self``, ``cross``, ``temporal``, ``geometry``."""
    resolution: int = 256
    """Side of the scored images, pixels."""
    background: Literal["white", "black", "dataset"] = "white"
    """Background of the targets, required in predictions too."""
    mask: Literal["face_hair", "person"] = "face_hair"
    """Ground-truth mask of ``/masked`` metrics."""
    crop: CropRule = field(default_factory=CropRule)
    """Square of ``/crop`` metrics."""
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    """What happens to frames that cannot be scored."""
    aggregation: list[str] = field(default_factory=lambda: ["frame", "clip", "identity"])
    """Order of averaging, which keeps long clips and frequent people from dominating."""
    networks: dict[str, str] = field(default_factory=dict)
    """Asset of each network that metrics use, with its sha256."""
    mesh: MeshRule | None = None
    """How meshes are compared; null for protocols on images."""
    format: str = FORMAT

    @property
    def bins(self) -> dict[str, list[float]]:
        """Tasks that are bins of rotation between source and driver, with their angles, degrees."""
        angles = {name: task.pairs.rotation_deg for name, task in self.tasks.items()}
        return {name: of_task for name, of_task in angles.items() if of_task is not None}

    @property
    def hash(self) -> str:
        """Name of this exact protocol: hash of its content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def load_protocol(path: Path) -> Protocol:
    """Read and check a protocol file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a protocol of this version, or names networks with hashes other than ours.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        hint = f"there are {known}" if known else "`rome experiments list protocols` shows them"
        raise FileNotFoundError(f"no protocol at {path}; {hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        stated = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path} has format {stated!r}; this version reads {FORMAT!r}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Protocol, "protocol")
    try:
        parsed = parser.parse_object({"protocol": content})
    except Exception as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    protocol: Protocol = Protocol(**vars(parser.instantiate(parsed).protocol))
    _check(protocol, path)
    return protocol


def _check(protocol: Protocol, path: Path) -> None:
    if protocol.aggregation != ["frame", "clip", "identity"]:
        raise ValueError(f"{path}: aggregation must be [frame, clip, identity], got {protocol.aggregation}")
    for name, task in protocol.tasks.items():
        kind = "geometry" if protocol.mesh else kind_of(name)
        angles = task.pairs.rotation_deg
        if angles is not None and not (len(angles) == 2 and 0 <= angles[0] < angles[1]):
            raise ValueError(
                f"{path}: rotation_deg of task {name!r} must be two increasing angles, got {angles}"
            )
        for metric in task.metrics:
            if kind not in spec_of(metric).tasks:
                raise ValueError(f"{path}: metric {metric} is not defined for task {name!r}")
    for name, stated in protocol.networks.items():
        if name not in REGISTRY:
            raise ValueError(f"{path}: unknown network {name!r}; `rome assets list` shows the known ones")
        if REGISTRY[name].sha256 != stated:
            raise ValueError(
                f"{path}: network {name} has sha256 {stated[:12]} there and {REGISTRY[name].sha256} here"
            )


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def as_dict(protocol: Protocol) -> dict[str, Any]:
    """Plain data of a protocol, as it is hashed."""
    return asdict(protocol)
