"""Runs a protocol: pairs are cut into fixed units, and each finished unit is stored on disk.

The values of a unit do not depend on the process that computes it, so one, two or four processes, and a run
that was killed and resumed, give the same numbers.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import rome_lightning
from rome_lightning.evaluation.metric_table import kind_of
from rome_lightning.evaluation.pairs import ClipSource, PairItem, PhotoSource, format_pairs, rotation_between
from rome_lightning.evaluation.protocol import Protocol, text_hash
from rome_lightning.evaluation.scoring import Scorer
from rome_lightning.evaluation.seen import RealImages
from rome_lightning.evaluation.systems import Predictions, System
from rome_lightning.media import image as image_file
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.provenance import git_commit
from rome_lightning.media.tensors import pack_tensors, unpack_tensors
from rome_lightning.types import Frames

UNIT_SIZE = 16
"""Pairs of one source that are scored at once."""


@dataclass(frozen=True)
class Unit:
    """Pairs of one task and source."""

    index: int
    pairs: tuple[PairItem, ...]

    @property
    def file(self) -> str:
        """Name of the file with its values."""
        return f"{self.index:06d}.safetensors"


@dataclass(frozen=True)
class Part:
    """The results of a scored unit."""

    unit: Unit
    tensors: dict[str, Tensor]
    """``values/``, ``defined/`` and ``floor/`` by metric, ``undetected_*``, ``landmarks`` and
    ``driver_landmarks``; a row per pair."""
    reasons: tuple[str, ...]
    """Why a prediction is missing; empty where there is one."""


def units_of(pairs: Sequence[PairItem]) -> list[Unit]:
    """Cut pairs, which are in order of task and source, into units."""
    groups: list[list[PairItem]] = []
    for pair in pairs:
        same = groups and _source_of(groups[-1][-1]) == _source_of(pair) and len(groups[-1]) < UNIT_SIZE
        if same:
            groups[-1].append(pair)
        else:
            groups.append([pair])
    return [Unit(index, tuple(group)) for index, group in enumerate(groups)]


def _source_of(pair: PairItem) -> tuple[str, str, int, str]:
    return pair.task, pair.clip, pair.source, pair.driver_clip


class Evaluation:
    """One system under one protocol, in one folder.

    Args:
        protocol: defines the metrics.
        pairs: see ``pairs_of``.
        clips: real frames.
        system: the measured system.
        folder: of the results, ``<run>/evaluation/<protocol>``.
        photo_size: side of the photographs that the system gets, from a ``PhotoSource``; the protocol's
            resolution by default.
    """

    def __init__(
        self,
        protocol: Protocol,
        pairs: Sequence[PairItem],
        clips: ClipSource,
        system: System,
        folder: Path,
        photo_size: int | None = None,
    ) -> None:
        self.photo_size = photo_size
        self.protocol, self.pairs, self.clips = protocol, list(pairs), clips
        self.system, self.folder = system, folder
        self.units = units_of(self.pairs)
        self._place = {pair: place for place, pair in enumerate(self.pairs)}
        self._states = {clip.key: clip.states for clip in clips.clips}
        self._order = {clip.key: {n: i for i, n in enumerate(clip.frames)} for clip in clips.clips}
        self.pair_list = format_pairs(self.pairs)
        self.identity: dict[str, Any] = {
            "protocol_hash": protocol.hash,
            "pairs_hash": text_hash(self.pair_list),
            "dataset_hash": clips.hash,
            "system": system.describe(),
            "version": rome_lightning.__version__,
            # Values of one code must not be finished by another.
            "git_commit": git_commit(),
        }
        if photo_size is not None:
            self.identity["photo_size"] = photo_size

    @property
    def parts(self) -> Path:
        """Folder of finished units."""
        return self.folder / "parts"

    def open(self) -> None:
        """Claim the folder, or resume the evaluation in it.

        Raises:
            ValueError: the folder holds another evaluation.
        """
        plan = self.parts / "plan.json"
        if plan.is_file():
            stored = json.loads(plan.read_text(encoding="utf-8"))
            different = [key for key, value in self.identity.items() if stored.get(key) != value]
            if different:
                raise ValueError(
                    f"{self.folder} contains another evaluation (its {', '.join(different)} differs); "
                    "choose another --output, or start over with --restart"
                )
            return
        write_atomic(plan, json.dumps(self.identity, indent=1).encode())
        write_atomic(self.folder / "pairs.txt", self.pair_list.encode())

    def missing(self) -> list[Unit]:
        """Units without stored values."""
        return [unit for unit in self.units if not _is_whole(self.parts / unit.file)]

    def share(self, rank: int, world_size: int) -> list[Unit]:
        """Unfinished units of one of several processes; a source's units go to the same one, in a row."""
        sources: dict[tuple[str, int], int] = {}
        for unit in self.units:
            sources.setdefault((unit.pairs[0].clip, unit.pairs[0].source), len(sources))
        mine = {key for key, place in sources.items() if place % world_size == rank}
        own = [u for u in self.missing() if (u.pairs[0].clip, u.pairs[0].source) in mine]
        return sorted(own, key=lambda u: sources[u.pairs[0].clip, u.pairs[0].source])

    def run(self, units: Iterable[Unit], scorer: Scorer) -> None:
        """Score units and store their values."""
        for unit in units:
            self._store(unit, *self._score(unit, scorer))

    def _score(self, unit: Unit, scorer: Scorer) -> tuple[dict[str, Tensor], Predictions]:
        lead = self._lead(unit)
        pairs = (*lead, *unit.pairs)
        source, driver = self._real(pairs, scorer)
        predictions = self.system.predict(pairs, self._photo(unit.pairs[0], source), driver.frames)
        self._check(pairs, predictions.reasons)
        task = unit.pairs[0].task
        present = torch.tensor([not reason for reason in predictions.reasons])
        image = predictions.images.float() / 255
        follows = torch.tensor([False, *itertools.starmap(self._follows, itertools.pairwise(pairs))])
        scores = scorer.score(task, image, present, source, driver, predictions.masks, follows=follows)
        floor = floor_scores(scorer, task, source, driver, follows)
        names = self.protocol.tasks[task].metrics
        tensors = {f"values/{name}": value for name, value in scores.values.items()}
        tensors |= {f"defined/{name}": value for name, value in scores.defined.items()}
        tensors |= {f"floor/{name}": value for name, value in floor.items()}
        tensors["undetected_prediction"] = scores.undetected_prediction
        tensors["undetected_target"] = scores.undetected_target
        tensors |= scores.extras(names)
        own = slice(len(lead), None)
        tensors = {name: value[own] for name, value in tensors.items()}
        self._check_faces(unit, tensors["undetected_prediction"])
        if "fid_inception" in names:
            tensors["inception"] = scorer.features(image[own][present[own]])
            tensors["inception_real"] = scorer.features(driver.image[own])
            tensors["inception_source"] = scorer.features(source.image[:1])
        return tensors, Predictions(predictions.images[own], predictions.reasons[own])

    def rotation(self, pair: PairItem) -> float:
        """Angle between the heads of source and driver, degrees; NaN where nobody tracked them."""
        states = self._states
        source, driver = states[pair.clip].get(pair.source), states[pair.driver_clip].get(pair.frame)
        return math.nan if source is None or driver is None else rotation_between(source, driver)

    def _lead(self, unit: Unit) -> tuple[PairItem, ...]:
        """The pair before the unit's first, where metrics over time compare it with that."""
        place, first = self._place[unit.pairs[0]], unit.pairs[0]
        over_time = any(name.startswith("dtssd") for name in self.protocol.tasks[first.task].metrics)
        before = self.pairs[place - 1 : place] if over_time and place else []
        return tuple(pair for pair in before if self._follows(pair, first))

    def _follows(self, before: PairItem, pair: PairItem) -> bool:
        """Whether two pairs are of one source, and of frames in a row."""
        order = self._order[pair.driver_clip]
        return _source_of(before) == _source_of(pair) and order[pair.frame] == order[before.frame] + 1

    def _real(self, pairs: Sequence[PairItem], scorer: Scorer) -> tuple[RealImages, RealImages]:
        """Source, repeated, and drivers of pairs that share their source."""
        first = pairs[0]
        source = self.clips.frames(first.clip, [first.source]).repeat_interleave(len(pairs))
        driver = self.clips.frames(first.driver_clip, [pair.frame for pair in pairs])
        return (
            scorer.real(source, [f"{p.clip}@{p.source}" for p in pairs]),
            scorer.real(driver, [f"{p.driver_clip}@{p.frame}" for p in pairs]),
        )

    def _photo(self, pair: PairItem, source: RealImages) -> Frames:
        """What the system makes its answer from."""
        if self.photo_size is None:
            return source.frames[slice(0, 1)]
        return cast("PhotoSource", self.clips).photo(pair.clip, pair.source, self.photo_size)

    def _check(self, pairs: Sequence[PairItem], reasons: Sequence[str]) -> None:
        for pair, reason in zip(pairs, reasons, strict=True):
            if reason and self.protocol.failures.missing == "refuse":
                raise ValueError(
                    f"{pair.path}: {reason}; the protocol {self.protocol.name} refuses missing frames"
                )

    def _check_faces(self, unit: Unit, undetected: Tensor) -> None:
        for pair, unseen in zip(unit.pairs, undetected.tolist(), strict=True):
            if unseen and self.protocol.failures.undetected == "refuse":
                raise ValueError(
                    f"{pair.path}: no face in the prediction, which the protocol {self.protocol.name} refuses"
                )

    def _keep_frames(self, unit: Unit, predictions: Predictions) -> None:
        for pair, image, reason in zip(unit.pairs, predictions.images, predictions.reasons, strict=True):
            if not reason:
                write_png(self.folder / "frames" / f"{pair.path}.png", image)

    def _store(self, unit: Unit, tensors: dict[str, Tensor], predictions: Predictions) -> None:
        self._keep_frames(unit, predictions)
        metadata = {"reasons": json.dumps(list(predictions.reasons))}
        write_atomic(self.parts / unit.file, pack_tensors(tensors, metadata))

    def load(self, unit: Unit) -> Part:
        """Values of a finished unit."""
        tensors, metadata = unpack_tensors(self.parts / unit.file)
        return Part(unit, tensors, tuple(json.loads(metadata["reasons"])))


def _is_whole(part: Path) -> bool:
    """Whether a part is there and of the length that its header states; another one is scored again."""
    try:
        with safe_open(part, framework="pt") as file:
            return "reasons" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def floor_scores(
    scorer: Scorer, task: str, source: RealImages, driver: RealImages, follows: Tensor | None = None
) -> dict[str, Tensor]:
    """Scores of doing nothing: the source copied, or, for identity in cross-reenactment, the driver shown."""
    names = scorer.protocol.tasks[task].metrics
    present = torch.ones(len(source), dtype=torch.bool)
    copied = scorer.score(
        task,
        source.image,
        present,
        source,
        driver,
        source.frames.foreground_mask,
        scorer.perceive_real(source, names),
        follows,
    ).values
    if kind_of(task) != "cross":
        return copied
    shown = scorer.score(
        task, driver.image, present, source, driver, None, scorer.perceive_real(driver, names)
    )
    return {name: shown.values[name] if name.startswith("csim") else value for name, value in copied.items()}


def write_png(path: Path, image: Tensor) -> None:
    """Write an RGB image of bytes (3, h, w)."""
    image_file.write_png(path, image.permute(1, 2, 0).numpy(), compression=3)


def describe(evaluation: Evaluation) -> dict[str, Any]:
    """Hashes that distinguish evaluations."""
    return dict(evaluation.identity)
