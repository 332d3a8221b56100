"""Videos to shards to a manifest, shard by shard, so that a run can be interrupted at any time."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from datamodules.manifest import SPLITS, Manifest, build_manifest
from datamodules.prepare.clips import TRACKER, SupportsTrack, VideoInput, make_clips
from datamodules.prepare.config import PrepareConfig
from datamodules.prepare.report import write_report
from datamodules.shards import SCHEMA, ShardInfo, ShardWriter, finished_shard, sha256_of
from rome_lightning.assets import REGISTRY
from rome_lightning.head import HeadModel, load_head
from rome_lightning.tracking.tracker import Tracker
from rome_lightning.tracking.video import probe

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v")
_TOOLS = ("rome-lightning", "torch", "mediapipe", "av", "simplejpeg", "numpy")
_MODELS = ("face_landmarker", "selfie_multiclass", "modnet")


def expand_inputs(paths: Sequence[Path]) -> list[Path]:
    """Files as they are; folders become the videos in them, at any depth.

    Raises:
        FileNotFoundError: a path does not exist or a folder has no video.
    """
    videos: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
            if not found:
                raise FileNotFoundError(f"folder {path} has no video ({', '.join(VIDEO_SUFFIXES)})")
            videos += found
        elif path.exists():
            videos.append(path)
        else:
            raise FileNotFoundError(f"no video at {path}")
    return videos


def split_of(identity: str, config: PrepareConfig) -> str:
    """Split of an identity: as listed, else by a hash of its name."""
    if identity in config.test_identities:
        return "test"
    if identity in config.val_identities:
        return "val"
    place = int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16) / 2**32
    if place < config.test_ratio:
        return "test"
    return "val" if place < config.test_ratio + config.val_ratio else "train"


def name_inputs(videos: Sequence[Path], identities: Mapping[str, str]) -> list[VideoInput]:
    """Hash the videos and give each a key and an identity; sorted by key.

    Args:
        videos: files; the same content twice is taken once.
        identities: person by file name without suffix; others are a person of their own, called as the file.

    Raises:
        ValueError: ``identities`` names a video that is not there.
    """
    unknown = set(identities) - {path.stem for path in videos}
    if unknown:
        raise ValueError(f"identities names videos that were not given: {_few(unknown)}")
    by_hash: dict[str, Path] = {}
    for path in videos:
        with path.open("rb") as file:
            by_hash.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
    keys = Counter(_key(path.stem) for path in by_hash.values())
    stems = Counter(path.stem for path in by_hash.values())
    inputs = []
    for digest, path in by_hash.items():
        key = _key(path.stem)
        # Two videos of one name in different folders are told apart by their content.
        key = key if keys[key] == 1 else f"{key}_{digest[:8]}"
        own = path.stem if stems[path.stem] == 1 else key
        inputs.append(VideoInput(path, key, identities.get(path.stem, own), digest))
    return sorted(inputs, key=lambda item: item.key)


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _key(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", stem)[:64] or "video"


def head_fingerprint(head: HeadModel) -> str:
    """Hash of the head model itself: a head that was baked or edited anew under its old name is another."""
    digest = hashlib.sha256()
    for name, buffer in sorted(head.named_buffers()):
        digest.update(f"{name} {tuple(buffer.shape)} {buffer.dtype}".encode())
        digest.update(buffer.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def default_tracker(head: HeadModel, config: PrepareConfig) -> Tracker:
    """The tracker of this package."""
    return Tracker(head, config.image_size)


def prepare(
    videos: Sequence[Path],
    output: Path,
    config: PrepareConfig | None = None,
    identities: Mapping[str, str] | None = None,
    log: Callable[[str], None] | None = None,
    make_tracker: Callable[[HeadModel, PrepareConfig], SupportsTrack] | None = None,
) -> Manifest:
    """Make or complete a dataset.

    Finished shards of the same inputs and options are kept, so after an interruption the same call
    goes on where it stopped. Shards of other options stay in the folder but not in the manifest.

    Args:
        videos: files or folders.
        output: folder of the dataset; created.
        config: options.
        identities: person by file name without suffix; by default each video is another person.
        log: receives progress, line by line; stderr by default.
        make_tracker: builds the tracker; called once, when there is something to track. By default
            ``default_tracker``.

    Returns:
        The manifest, also written to ``output/manifest.json``, with the failed videos in ``failed``.

    Raises:
        FileNotFoundError: a video or a model asset is missing.
        ValueError: no video could be used, or none is left to train on.
    """
    config = config or PrepareConfig()
    log = log or _to_stderr
    inputs = name_inputs(expand_inputs([Path(video) for video in videos]), identities or {})
    absent = {*config.val_identities, *config.test_identities} - {item.identity for item in inputs}
    if absent:
        raise ValueError(f"val_identities or test_identities name people without a video: {_few(absent)}")
    output.mkdir(parents=True, exist_ok=True)
    head = load_head(config.head)
    work = _shard_specs(inputs, config, head)
    maker = _ShardMaker(
        output, config, log, head.name, lambda: (make_tracker or default_tracker)(head, config)
    )
    maker.expect([item for _, _, _, group in work for item in group])
    shards = [(split, maker.make(name, spec, group)) for split, name, spec, group in work]
    manifest = build_manifest(
        config.dataset,
        config.image_size,
        {
            "name": head.name,
            "sha256": head_fingerprint(head),
            "num_shape": head.num_shape,
            "num_expression": head.num_expression,
        },
        shards,
        # The head's path is the user's own; its name says which it was.
        {**asdict(config), "head": head.name},
        config.licence,
    )
    _check_usable(manifest, output)
    manifest.save(output / "manifest.json")
    write_report(manifest, [info for _, info in shards], output, head)
    return manifest


def _check_usable(manifest: Manifest, output: Path) -> None:
    failed = "; ".join(f"{item['input']}: {item['reason']}" for item in manifest.failed[:3])
    if not manifest.shards:
        raise ValueError(f"none of the {len(manifest.failed)} videos can be used ({failed})")
    if not manifest.split("train"):
        raise ValueError(
            f"no usable video is left to train on in {output}; lower val_ratio and test_ratio, list "
            "val_identities instead, or give more people"
        )


def _shard_specs(
    inputs: Sequence[VideoInput], config: PrepareConfig, head: HeadModel
) -> list[tuple[str, str, dict[str, Any], list[VideoInput]]]:
    """(split, name, spec, inputs) of every shard.

    The name has the hash of the spec, so that no other version of a shard is ever overwritten.
    """
    models = {name: REGISTRY[name].sha256 for name in _MODELS}
    fingerprint = head_fingerprint(head)
    work = []
    for split in SPLITS:
        members = [item for item in inputs if split_of(item.identity, config) == split]
        for start in range(0, len(members), config.videos_per_shard):
            group = members[start : start + config.videos_per_shard]
            spec = {
                "schema": SCHEMA,
                "split": split,
                "inputs": [
                    {"key": i.key, "identity": i.identity, "source": i.path.name, "sha256": i.sha256}
                    for i in group
                ],
                "settings": config.clip_settings(),
                "head": {"name": head.name, "sha256": fingerprint},
                "tracker": TRACKER,
                "models": models,
            }
            name = f"{split}-{start // config.videos_per_shard:05d}-{sha256_of(spec)[:8]}"
            work.append((split, name, spec, group))
    return work


class _ShardMaker:
    """Makes shards one after the other and tells how far it is."""

    def __init__(
        self,
        output: Path,
        config: PrepareConfig,
        log: Callable[[str], None],
        head: str,
        make_tracker: Callable[[], SupportsTrack],
    ) -> None:
        self.output, self.config, self.log, self._head = output, config, log, head
        self._make_tracker = make_tracker
        self._tracker: SupportsTrack | None = None
        self._expected: dict[str, int] = {}
        self._done = 0
        self._tracked_frames, self._elapsed_s = 0, 0.0

    def expect(self, inputs: Sequence[VideoInput]) -> None:
        """Learn from the headers of all videos how much work there is."""
        for item in inputs:
            try:
                info = probe(item.path)
            except (OSError, ValueError):
                # Reported when its turn comes, with the other failures.
                self._expected[item.key] = 0
                continue
            duration = max(info.num_frames / info.fps - self.config.start_s, 0) if info.fps else 0
            frames = duration * min(self.config.fps or info.fps, info.fps)
            self._expected[item.key] = min(self.config.max_frames, round(frames))
        frames = sum(self._expected.values())
        self.log(f"{len(inputs)} videos, about {frames} frames to track")

    def make(self, name: str, spec: Mapping[str, Any], group: Sequence[VideoInput]) -> ShardInfo:
        """One shard, or the finished one of an earlier run."""
        info = finished_shard(self.output, name, spec)
        if info is not None:
            self._done += len(group)
            for item in group:
                self._expected.pop(item.key)
            self.log(f"{name}: kept from an earlier run ({info.clips} clips, {info.frames} frames)")
            return info
        if self._tracker is None:
            self._tracker = self._make_tracker()
        failed: list[dict[str, str]] = []
        counts: Counter[str] = Counter()
        with ShardWriter(self.output, name, spec) as writer:
            for item in group:
                self._add(item, writer, failed, counts)
            versions = {tool: _version(tool) for tool in _TOOLS}
            return writer.finish(failed, versions, dict(sorted(counts.items())))

    def _add(
        self, item: VideoInput, writer: ShardWriter, failed: list[dict[str, str]], counts: Counter[str]
    ) -> None:
        assert self._tracker is not None
        start = time.monotonic()
        self._done += 1
        place = f"[{self._done}/{self._done + len(self._expected) - 1}] {item.path.name}"
        self.log(f"{place}: tracking ...")
        try:
            made = make_clips(item, self._tracker, self.config, self._head)
            for clip in made.clips:
                writer.add(clip)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            failed.append({"input": item.path.name, "reason": reason})
            self._advance(item, time.monotonic() - start, 0)
            self.log(f"{place}: FAILED: {reason}")
            return
        counts.update({"frames tracked": made.num_frames, "frames used": made.num_used})
        counts.update({f"rejected: {reason}": count for reason, count in made.rejected.items()})
        self._advance(item, time.monotonic() - start, made.num_frames)
        rejected = ", ".join(f"{count} {reason}" for reason, count in made.rejected.items())
        without = f" (rejected: {rejected})" if rejected else ""
        used = f"{made.num_used} of {made.num_frames} frames in {made.num_clips} clips{without}"
        self.log(f"{place}: {used}, {time.monotonic() - start:.0f} s{self._left()}")

    def _advance(self, item: VideoInput, seconds: float, frames: int) -> None:
        self._expected.pop(item.key)
        self._elapsed_s += seconds
        self._tracked_frames += frames

    def _left(self) -> str:
        remaining = sum(self._expected.values())
        if not remaining or not self._tracked_frames:
            return ""
        seconds = remaining * self._elapsed_s / self._tracked_frames
        return f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"


def _version(tool: str) -> str:
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return "unknown"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
