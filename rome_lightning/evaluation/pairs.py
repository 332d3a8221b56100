"""Pairs of source and driver frames: rules, and lists of ids and frame numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface
from typing import runtime_checkable

import numpy as np
import torch

from rome_lightning.evaluation.protocol import PairRule, Protocol
from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.metrics import rotation_distance
from rome_lightning.types import Frames
from rome_lightning.types.clip import ClipInfo, FrameState

LIST_FORMAT = "# rome-pairs/1"
_COLUMNS = ("task", "clip", "source", "driver_clip", "frame")


class ClipSource(Interface):
    """The source of an evaluation's real frames."""

    name: str
    """Of the dataset, for people."""
    hash: str
    """Names the dataset's version."""

    @property
    def clips(self) -> Sequence[ClipInfo]:
        """All clips."""
        ...

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames of a clip by their numbers, at the protocol's resolution."""
        ...


@runtime_checkable
class PhotoSource(ClipSource, Interface):
    """A source that stores larger frames than it gives out."""

    def photo(self, clip: str, number: int, size: int) -> Frames:
        """One frame at another size, pixels.

        Raises:
            ValueError: it is not stored at this size.
        """
        ...


@dataclass(frozen=True)
class PairItem:
    """One unit of an evaluation."""

    task: str
    clip: str
    """Key of the source's clip."""
    identity: str
    """Person of the source."""
    source: int
    """Frame number in ``clip``."""
    driver_clip: str
    driver_identity: str
    """Person of the driver; empty where it is the source's own."""
    frame: int
    """Frame number in ``driver_clip``."""

    @property
    def source_id(self) -> str:
        """Name of the source frame in results."""
        return f"{self.source:06d}"

    @property
    def frame_id(self) -> str:
        """Name of the driver frame in results; includes the clip if it is a different one."""
        number = f"{self.frame:06d}"
        return number if self.driver_clip == self.clip else f"{self.driver_clip}@{number}"

    @property
    def path(self) -> str:
        """Path of the pair's frame without suffix, in predictions and results."""
        return f"{self.task}/{self.clip}/{self.source_id}__{self.frame_id}"


def impossible_tasks(protocol: Protocol, clips: Sequence[ClipInfo]) -> dict[str, str]:
    """Tasks that need two people, or two frames of one, which the clips do not show, with that reason."""
    people = {clip.identity for clip in clips}
    single = all(len(clip.frames) < 2 for clip in clips)
    reasons = {}
    for name, task in protocol.tasks.items():
        rule = task.pairs
        if rule.file is not None:
            continue
        if rule.kind == "next_identity" and len(people) < 2:
            reasons[name] = f"it needs two people, but the scored clips show {len(people)}"
        elif rule.needs_two_frames and single:
            reasons[name] = "it needs two frames or photographs of a person, but every clip has one"
    return reasons


def pairs_of(protocol: Protocol, protocol_path: Path, clips: Sequence[ClipInfo]) -> list[PairItem]:
    """All pairs of a protocol on the given clips, by task, source and frame.

    Impossible tasks are skipped as long as another task remains.

    Raises:
        ValueError: there is nothing to score, or a list names clips or frames that the data lack.
    """
    pairs: list[PairItem] = []
    impossible = impossible_tasks(protocol, clips)
    for name, task in protocol.tasks.items():
        rule = task.pairs
        if name in impossible and len(impossible) < len(protocol.tasks):
            continue
        if rule.file is not None:
            found = [p for p in read_pairs(protocol_path.parent / rule.file, clips) if p.task == name]
        elif rule.kind == "within_clip":
            found = _within_clip(name, rule, clips)
        else:
            found = _next_identity(name, rule, clips)
        if not found and not rule.selects:
            raise ValueError(f"protocol {protocol.name}: the dataset gives no pair for task {name!r}")
        pairs += found
    if not pairs:
        raise ValueError(f"protocol {protocol.name}: no frame of the dataset matches its rules")
    return pairs


def _within_clip(task: str, rule: PairRule, clips: Sequence[ClipInfo]) -> list[PairItem]:
    return [
        PairItem(task, clip.key, clip.identity, source, clip.key, "", frame)
        for clip in clips
        for source in [_source(rule, clip)]
        for frame in _drivers(rule, clip, source)
    ]


def _drivers(rule: PairRule, clip: ClipInfo, source: int) -> list[int]:
    """Frames of the source's own clip that it drives to."""
    if rule.frames == "own":
        return [source]
    frames = [f for f in clip.frames if rule.include_source or f != source]
    if rule.selects or rule.frames == "turning":
        if not clip.states:
            raise ValueError(
                f"{clip.key} was not tracked, so frames cannot be chosen by head pose, eyes or mouth; use "
                "a dataset of `rome prepare`, or a protocol without rotation_deg, openings and turning frames"
            )
        frames = [f for f in frames if _fits(rule, clip.states[source], clip.states[f])]
    return _turning(clip, frames, rule.num_frames) if rule.frames == "turning" else _chosen(rule, frames)


def _fits(rule: PairRule, source: FrameState, driver: FrameState) -> bool:
    low, high = rule.rotation_deg or (0.0, 360.0)
    fits = low <= rotation_between(source, driver) < high
    if rule.max_eye_opening is not None:
        fits = fits and driver.eye_opening <= rule.max_eye_opening
    if rule.min_mouth_opening is not None:
        fits = fits and driver.mouth_opening >= rule.min_mouth_opening
    return fits


def rotation_between(a: FrameState, b: FrameState) -> float:
    """Angle between the heads of two frames, degrees."""
    matrices = axis_angle_to_matrix(torch.tensor([a.head_pose, b.head_pose], dtype=torch.float64))
    return float(rotation_distance(matrices[:1], matrices[1:]))


def _turning(clip: ClipInfo, frames: Sequence[int], count: int) -> list[int]:
    """The frames in a row over which the head turns most from one to the next, summed; the first such."""
    steps = [rotation_between(clip.states[a], clip.states[b]) for a, b in itertools.pairwise(frames)]
    starts = range(max(1, len(frames) - count + 1))
    best = max(starts, key=lambda start: (sum(steps[start : start + count - 1]), -start))
    return list(frames[best : best + count])


def _next_identity(task: str, rule: PairRule, clips: Sequence[ClipInfo]) -> list[PairItem]:
    first = {clip.identity: clip for clip in reversed(clips)}
    people = sorted(first)
    if len(people) < 2:
        raise ValueError(f"task {task!r} needs two people, but the scored clips show {len(people)}")
    pairs = []
    for index, person in enumerate(people):
        clip, driver = first[person], first[people[index - 1]]
        pairs += [
            PairItem(task, clip.key, person, _source(rule, clip), driver.key, driver.identity, frame)
            for frame in _chosen(rule, driver.frames)
        ]
    return pairs


def _source(rule: PairRule, clip: ClipInfo) -> int:
    return clip.typical if rule.source == "typical" else clip.frames[0]


def _chosen(rule: PairRule, frames: Sequence[int]) -> list[int]:
    if rule.frames == "all" or not frames:
        return list(frames)
    if rule.frames == "consecutive":
        return list(frames[: rule.num_frames])
    places = np.unique(np.linspace(0, len(frames) - 1, min(rule.num_frames, len(frames))).round())
    return [frames[int(place)] for place in places]


def format_pairs(pairs: Iterable[PairItem]) -> str:
    """A pair list as text: tab-separated, one pair per line."""
    lines = [LIST_FORMAT, "# " + "\t".join(_COLUMNS)]
    lines += [f"{p.task}\t{p.clip}\t{p.source}\t{p.driver_clip}\t{p.frame}" for p in pairs]
    return "\n".join(lines) + "\n"


def read_pairs(path: Path, clips: Sequence[ClipInfo]) -> list[PairItem]:
    """Read a pair list.

    Args:
        path: a file in the form of ``format_pairs``.
        clips: of the dataset.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is malformed, or names clips or frames that the dataset does not have.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no pair list at {path}")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != LIST_FORMAT:
        raise ValueError(f"{path} is not a pair list: its first line must be {LIST_FORMAT!r}")
    known = {clip.key: clip for clip in clips}
    pairs: list[PairItem] = []
    absent: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) != len(_COLUMNS) or not (cells[2].isdecimal() and cells[4].isdecimal()):
            raise ValueError(
                f"{path}, line {number}: expected {' '.join(_COLUMNS)} separated by tabs, got {line!r}"
            )
        task, clip, source, driver, frame = cells[0], cells[1], int(cells[2]), cells[3], int(cells[4])
        absent += _absent(known, ((clip, source), (driver, frame)))
        if clip in known and driver in known:
            other = known[driver].identity
            own = known[clip].identity
            pairs.append(PairItem(task, clip, own, source, driver, "" if own == other else other, frame))
    if absent:
        missing = sorted(set(absent))
        raise ValueError(
            f"{path} names {len(missing)} clips or frames that the dataset does not have: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; prepare the same videos"
        )
    return pairs


def _absent(known: dict[str, ClipInfo], wanted: Iterable[tuple[str, int]]) -> list[str]:
    missing = []
    for clip, frame in wanted:
        if clip not in known:
            missing.append(clip)
        elif frame not in known[clip].frames:
            missing.append(f"{clip} frame {frame}")
    return missing
