"""The finished clips of one video, kept on disk until the shard that they belong to is complete.

A part is a shard of one video in the hidden folder ``.parts``, so it is written as safely as a shard:
if the builder is killed, only the videos being tracked are lost.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2

from datamodules.codec import MEMBERS, PackedClip, decode_meta
from datamodules.prepare.clips import SupportsTrack, VideoReport, VideoTools, make_clips
from datamodules.prepare.config import PrepareConfig
from datamodules.prepare.inputs import VideoInput
from datamodules.prepare.outlines import outline_fitter
from datamodules.prepare.photos import make_photo_clips
from datamodules.shards import ShardInfo, ShardWriter, finished_shard
from datamodules.split_index import KINDS
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.atomic import write_atomic
from rome_lightning.tracking.carried_masks import CarryRule
from rome_lightning.tracking.foreign import DecaEncoder
from rome_lightning.tracking.identity import Embedder
from rome_lightning.tracking.quality import QualityRule
from rome_lightning.tracking.tracker import Tracker

FOLDER = ".parts"
REPORT = ".report.json"
"""Suffix of the file beside a shard that ``report.html`` is made from."""
_PART_SUFFIXES = (".tar", ".json", *(f".{kind}.npy" for kind in KINDS), REPORT)
_TOOLS = ("rome-lightning", "torch", "mediapipe", "av", "simplejpeg", "numpy")

MakeTracker = Callable[[HeadModel, PrepareConfig], SupportsTrack]
MakeEmbedder = Callable[[], Embedder]


@dataclass(frozen=True)
class Part:
    """One video to process."""

    name: str
    video: VideoInput
    spec: Mapping[str, Any]


def default_tracker(head: HeadModel, config: PrepareConfig) -> Tracker:
    """The tracker of this package."""
    quality = QualityRule(
        min_face_px=config.min_face_px, max_yaw=config.max_yaw, max_covered=config.max_covered
    )
    encoder = None if config.deca is None else DecaEncoder.load(Path(config.deca))
    carry_rule = CarryRule() if config.carry_masks else None
    return Tracker(head, config.image_size, quality=quality, encoder=encoder, carry_rule=carry_rule)


@dataclass(frozen=True)
class PartMaker:
    """Opens the tools once in the process that does the work; picklable, so that it can be a child."""

    folder: Path
    """Where parts are written."""
    config: PrepareConfig
    make_tracker: MakeTracker
    make_embedder: MakeEmbedder

    def __call__(self) -> Callable[[Part], VideoReport]:
        """Open the tools; returns the function that makes one part."""
        # Each process must stay on one core; the other libraries read the environment.
        cv2.setNumThreads(1)
        head = load_head(self.config.head)
        checks = self.config.min_identity_similarity is not None
        tools = VideoTools(
            self.make_tracker(head, self.config),
            self.make_embedder() if checks else None,
            outline_fitter(head) if self.config.fit_outline else None,
        )
        return lambda part: make_part(part, self.folder, tools, self.config, head.name)


def make_part(part: Part, folder: Path, tools: VideoTools, config: PrepareConfig, head: str) -> VideoReport:
    """Process one video and write the result; an unusable video gives a part without clips.

    Raises:
        OSError: the part cannot be written.
    """
    report = VideoReport(part.video.name, identity=part.video.identity)
    try:
        make = make_photo_clips if part.video.photos else make_clips
        clips = make(part.video, tools, config, head, report)
    except (OSError, ValueError) as error:
        clips, report.failed, report.kind = [], _reason(error, part.video), "unusable"
    except Exception as error:
        # Libraries raise all kinds of errors, and one broken video must not end a run of days.
        text = f"{type(error).__name__}: {_reason(error, part.video)}"
        clips, report.failed, report.kind = [], text, "error"
    with ShardWriter(folder, part.name, part.spec) as writer:
        for clip in clips:
            writer.add(clip)
        write_reports(folder, part.name, [report])
        writer.finish(failure_of(report))
    return report


def _reason(error: Exception, video: VideoInput) -> str:
    """One line that does not depend on the videos' location, because it becomes part of the dataset."""
    return " ".join(str(error).replace(str(video.path), video.name).split())


def give_up_part(part: Part, folder: Path, reason: str, kind: str) -> VideoReport:
    """Write the part of a video that crashed or hung the process that worked on it."""
    report = VideoReport(part.video.name, identity=part.video.identity, failed=reason, kind=kind)
    with ShardWriter(folder, part.name, part.spec) as writer:
        write_reports(folder, part.name, [report])
        writer.finish(failure_of(report))
    return report


def failure_of(report: VideoReport) -> list[dict[str, str]]:
    """A shard's reason for an unusable video; empty if it was usable."""
    if not report.failed:
        return []
    return [{"input": report.input, "reason": report.failed, "kind": report.kind}]


def finished_part(part: Part, folder: Path) -> ShardInfo | None:
    """The part's information if it was completely written, else None."""
    info = finished_shard(folder, part.name, part.spec)
    return info if info is not None and (folder / f"{part.name}{REPORT}").exists() else None


def remove_parts(names: Iterable[str], folder: Path) -> None:
    """Delete parts."""
    # By name: scanning the folder for each shard would take hours with a hundred thousand videos.
    for name in names:
        for suffix in _PART_SUFFIXES:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def remove_leftovers(names: Collection[str], folder: Path, whole: bool = False) -> None:
    """Delete leftovers of killed processes: ``.NAME.SUFFIX.RANDOM.tmp``.

    Args:
        names: of the shards or parts.
        folder: that contains them; scanned once.
        whole: delete the parts themselves too.
    """
    for entry in os.scandir(folder) if folder.is_dir() else ():
        hidden, _, rest = entry.name.partition(".")
        temporary = not hidden and entry.name.endswith(".tmp") and rest.partition(".")[0] in names
        if temporary or (whole and hidden in names):
            Path(entry.path).unlink(missing_ok=True)


def join_parts(name: str, spec: Mapping[str, Any], parts: Sequence[Part], output: Path) -> ShardInfo:
    """Write a shard from the finished parts of all its videos; the bytes depend on these alone."""
    folder = output / FOLDER
    reports: list[VideoReport] = []
    failed: list[dict[str, str]] = []
    with ShardWriter(output, name, spec) as writer:
        for part in parts:
            info = finished_part(part, folder)
            if info is None:
                raise FileNotFoundError(f"part {folder / part.name} is gone; run the same command again")
            reports += read_reports(folder, part.name)
            failed += info.failed
            if info.clips:
                _copy_clips(folder / f"{part.name}.tar", part.video.identity, writer)
        write_reports(output, name, reports)
        versions = {tool: _version(tool) for tool in _TOOLS}
        return writer.finish(failed, versions, _counts(reports))


def _copy_clips(tar: Path, identity: str, writer: ShardWriter) -> None:
    with tarfile.open(tar) as archive:
        members: dict[str, bytes] = {}
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            key, _, suffix = entry.name.partition(".")
            members[suffix] = file.read()
            if suffix == MEMBERS[-1]:
                writer.add_packed(key, identity, PackedClip(members, decode_meta(members[suffix])[0]))
                members = {}


def _counts(reports: Sequence[VideoReport]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update({"frames tracked": report.num_frames, "frames used": report.num_used})
        counts.update({f"rejected: {reason}": count for reason, count in report.rejected.items()})
    return dict(sorted(counts.items()))


def write_reports(folder: Path, name: str, reports: Sequence[VideoReport]) -> None:
    """Write the reports of a part or shard."""
    content = {"videos": [asdict(report) for report in reports]}
    write_atomic(folder / f"{name}{REPORT}", json.dumps(content, ensure_ascii=False, sort_keys=True).encode())


def read_reports(folder: Path, name: str) -> list[VideoReport]:
    """Reports of a part or shard; none if the file is missing, because only people read it."""
    path = folder / f"{name}{REPORT}"
    if not path.exists():
        return []
    known = VideoReport.__dataclass_fields__
    videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
    return [VideoReport(**{k: v for k, v in video.items() if k in known}) for video in videos]


def _version(tool: str) -> str:
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return "unknown"
