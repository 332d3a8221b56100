"""From clips of pictures to a dataset; from the tracker on, they are processed like videos.

For pictures in folders, FLAME parameters of another tracker can replace our fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser

from datamodules.importing.parameters import ParameterFolder, with_params
from datamodules.importing.sources import FrameClip, frame_folders, gagavatar_lmdb, rome_lmdb, webdataset_tars
from datamodules.manifest import SPLITS, Manifest, build_manifest
from datamodules.prepare.clips import TRACKER, VideoReport, VideoTools, make_clips
from datamodules.prepare.config import PrepareConfig
from datamodules.prepare.inputs import VideoInput, few, splits_of
from datamodules.prepare.outlines import outline_fitter
from datamodules.prepare.parts import MakeTracker, default_tracker, read_reports, write_reports
from datamodules.prepare.pipeline import head_digest
from datamodules.prepare.report import write_report
from datamodules.shards import SCHEMA, ShardInfo, ShardWriter, finished_shard, sha256_of
from datamodules.split_index import remove_old_indices, with_indices
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.video import Video
from rome_lightning.tracking.embedding import with_landmarks
from rome_lightning.tracking.foreign import KINDS as TRACKERS

_FPS = 25.0
"""Frame rate of pictures, which have none themselves."""


def _lmdb(source: Path) -> list[FrameClip]:
    return rome_lmdb(source) if (source / "chunks").is_dir() else gagavatar_lmdb(source)


def _lmdb_clips(source: Path, picture_suffix: str | None, log: Callable[[str], None]) -> list[FrameClip]:
    if picture_suffix is not None:
        raise ValueError("--picture-suffix needs named files; a database has none")
    return _lmdb(source)


SOURCES: dict[str, Callable[[Path, str | None, Callable[[str], None]], list[FrameClip]]] = {
    "frames": frame_folders,
    "webdataset": webdataset_tars,
    "lmdb": _lmdb_clips,
    **dict.fromkeys(TRACKERS, frame_folders),
}


def import_dataset(
    kind: str,
    source: Path,
    output: Path,
    config: PrepareConfig,
    log: Callable[[str], None],
    make_tracker: MakeTracker | None = None,
    picture_suffix: str | None = None,
    params: Path | None = None,
) -> Manifest:
    """Make a dataset of pictures, and its ``report.html``.

    Clips are hashed and shards named by their content, so an interrupted import resumes when started again.

    Args:
        kind: of ``SOURCES``.
        source: folder or file.
        output: folder of the dataset; created.
        config: as for videos; options about their time, such as ``fps``, do not apply.
        log: receives progress.
        make_tracker: by default the package's own.
        picture_suffix: of the files to take, where one picture has several.
        params: FLAME parameters of the tracker that ``kind`` names, see ``ParameterFolder``; by default they
            are looked for beside the pictures.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: no clip could be used, or parameters are given for a kind or a head that has none.
    """
    for path in (source, params):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"nothing to import at {path}")
    head = with_landmarks(load_head(config.head))
    if kind not in TRACKERS and params is not None:
        raise ValueError(f"parameters are supported with --from {', '.join(TRACKERS)}, not with {kind}")
    if kind in TRACKERS and head.pose_basis is None:
        raise ValueError(f"{kind} has FLAME's parameters: pass FLAME's generic_model.pkl as --head")
    output.mkdir(parents=True, exist_ok=True)
    found = SOURCES[kind](source, picture_suffix, log)
    folder = ParameterFolder(kind, params or source, len(found) == 1) if kind in TRACKERS else None
    inputs = _named(found, folder)
    people = {video.identity for video, _ in inputs}
    log(f"{len(inputs)} clips of {len(people)} people in {source}: {few(people)}")
    importer = _Importer(output, config, head, make_tracker or default_tracker, log, folder)
    shards = []
    split_of = splits_of((item[0].identity for item in inputs), config)
    for split in SPLITS:
        members = [item for item in inputs if split_of[item[0].identity] == split]
        for start in range(0, len(members), config.videos_per_shard):
            group = members[start : start + config.videos_per_shard]
            shards.append((split, importer.make(kind, split, start // config.videos_per_shard, group)))
    about: dict[str, Any] = {"name": head.name, "sha256": head_digest(head)}
    about |= {"num_shape": head.num_shape, "num_expression": head.num_expression}
    configuration = {**config.recorded(head.name), "imported_from": kind}
    manifest = build_manifest(config.dataset, config.image_size, about, shards, configuration, config.licence)
    if not manifest.split("train"):
        failed = "; ".join(f"{item['input']}: {item['reason']}" for item in manifest.failed[:3])
        why = failed or "all people are kept for validation or testing"
        raise ValueError(f"no clip of {source} is left for training ({why})")
    manifest = with_indices(output, manifest)
    manifest.save(output / "manifest.json")
    remove_old_indices(output, manifest)
    reports = [report for _, info in shards for report in read_reports(output, info.name)]
    write_report(manifest, [info for _, info in shards], reports, output, head)
    return manifest


def read_config(
    path: Path | None, dataset: str | None, val_identities: Sequence[str], head: str | None = None
) -> PrepareConfig:
    """Options of ``rome prepare`` from a YAML file; the arguments here override the file.

    Args:
        path: YAML file; None for the defaults.
        dataset: name of the dataset.
        val_identities: people kept for validation.
        head: head model to fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has other options, or values of other types.
    """
    # The same parser as ``rome prepare``, so a file means the same to both.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PrepareConfig)
    parser.set_defaults({"dataset": "imported"})
    try:
        text = path.read_text(encoding="utf-8-sig") if path is not None else "{}"
        content = parser.parse_string(text, str(path)).as_dict()
    except (ArgumentError, UnicodeDecodeError) as error:
        hint = "; put names in quotes" if "<class 'str'>" in str(error) else ""
        raise ValueError(f"{path}: {' '.join(str(error).split())}{hint}") from error
    given = {"dataset": dataset, "val_identities": list(val_identities), "head": head}
    return PrepareConfig(**{**content, **{name: value for name, value in given.items() if value}})


def _named(clips: Sequence[FrameClip], folder: ParameterFolder | None) -> list[tuple[VideoInput, FrameClip]]:
    """Clips with unique keys and the hash of their pictures and parameters, sorted by key."""
    inputs = {}
    for clip in clips:
        digest = hashlib.sha256()
        try:
            for data in clip.frames():
                digest.update(len(data).to_bytes(8, "little") + data)
            if folder is not None:
                digest.update(folder.digest(clip))
        except (ValueError, OSError) as error:
            # It fails again, with a report, when its shard is built, without affecting the others.
            digest.update(str(error).encode())
        key = "".join(c if c.isascii() and c.isalnum() else "_" for c in clip.name)[:64]
        if key in inputs:
            key = f"{key}_{digest.hexdigest()[:8]}"
        inputs[key] = (VideoInput(Path(clip.name), key, clip.identity, digest.hexdigest(), clip.name), clip)
    return [inputs[key] for key in sorted(inputs)]


class _Importer:
    """Builds shards one by one; opens the tracker when the first shard must be built."""

    def __init__(
        self,
        output: Path,
        config: PrepareConfig,
        head: HeadModel,
        make_tracker: MakeTracker,
        log: Callable[[str], None],
        folder: ParameterFolder | None,
    ) -> None:
        self.output, self.config, self.head, self.log = output, config, head, log
        self._folder = folder
        self._make_tracker = make_tracker
        self._tools: VideoTools | None = None

    def make(
        self, kind: str, split: str, number: int, group: Sequence[tuple[VideoInput, FrameClip]]
    ) -> ShardInfo:
        """Build a shard, or keep an existing one."""
        spec = {
            "schema": SCHEMA,
            "imported_from": kind,
            "settings": self.config.clip_settings(),
            "head": {"name": self.head.name, "sha256": head_digest(self.head)},
            "tracker": TRACKER,
            "split": split,
            "inputs": [{"key": v.key, "identity": v.identity, "sha256": v.sha256} for v, _ in group],
        }
        name = f"{split}-{number:05d}-{sha256_of(spec)[:8]}"
        info = finished_shard(self.output, name, spec)
        if info is not None:
            self.log(f"{name}: kept from an earlier run")
            return info
        reports = [VideoReport(clip.name, identity=clip.identity) for _, clip in group]
        with ShardWriter(self.output, name, spec) as writer:
            for (video, clip), report in zip(group, reports, strict=True):
                try:
                    self._add(writer, video, clip, report)
                except (ValueError, OSError, MemoryError) as error:
                    report.failed = " ".join(str(error).split()) or "out of memory"
                    self.log(f"{clip.name}: FAILED: {report.failed}")
            write_reports(self.output, name, reports)
            return writer.finish([{"input": r.input, "reason": r.failed} for r in reports if r.failed])

    def _add(self, writer: ShardWriter, video: VideoInput, clip: FrameClip, report: VideoReport) -> None:
        if self._tools is None:
            outline = outline_fitter(self.head) if self.config.fit_outline else None
            self._tools = VideoTools(self._make_tracker(self.head, self.config), None, outline)
        frames = clip.decode(self.config.max_frames, self.config.max_side)
        numbers = np.arange(len(frames), dtype=np.int32)
        content = Video(frames, _FPS, numbers / _FPS, numbers)
        tools, told = self._tools, list[str]()
        if self._folder is not None:
            track = self._folder.read(clip, len(frames))
            tools = replace(tools, with_params=partial(with_params, self.head, track, clip.size(), told))
        for made in make_clips(video, tools, self.config, self.head.name, report, content):
            if self._folder is not None:
                named = f"{TRACKER}, parameters of {self._folder.kind}"
                made = replace(made, header={**made.header, "tracker": named})
            writer.add(made)
        for line in dict.fromkeys(told):
            self.log(f"{clip.name}: {line}")
        self.log(f"{clip.name}: {report.num_used} of {report.num_frames} frames used")
