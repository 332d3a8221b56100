"""Rebuild shards from the videos that their sidecars name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datamodules.manifest import Manifest, ManifestShard
from datamodules.prepare.build import Builder, ShardPlan
from datamodules.prepare.clips import TRACKER
from datamodules.prepare.config import BuildOptions, PrepareConfig
from datamodules.prepare.inputs import PHOTO_SUFFIXES, VideoInput, expand_inputs
from datamodules.prepare.parts import MakeEmbedder, MakeTracker, Part, default_tracker
from datamodules.prepare.pipeline import head_digest
from datamodules.shards import SCHEMA, ShardInfo, sha256_of
from rome_lightning.head import load_head
from rome_lightning.media.digest import file_sha256
from rome_lightning.tracking.identity import default_embedder

_INDICES = ("frames.npy", "clips.npy", "params.npy")


def rebuild_shards(
    folder: Path,
    manifest: Manifest,
    shards: Sequence[ManifestShard],
    videos: Sequence[Path],
    log: Callable[[str], None],
    head: str = "open",
    options: BuildOptions | None = None,
    make_tracker: MakeTracker | None = None,
    make_embedder: MakeEmbedder | None = None,
) -> list[str]:
    """Replace damaged shards of a dataset that ``rome prepare`` made.

    A damaged file is removed only if its videos are available; the rebuilt one must match the manifest's
    digest.

    Args:
        folder: of the dataset.
        manifest: of the dataset.
        shards: the damaged ones.
        videos: files or folders; the required ones are found by their hash.
        log: receives progress.
        head: head model of the dataset: ``open`` or a path; its name alone is stored.
        options: how the work is done.
        make_tracker: see ``datamodules.prepare.prepare``.
        make_embedder: the same.

    Returns:
        What could not be repaired, one line per shard.
    """
    found, _ = expand_inputs(list(videos))
    by_hash = {file_sha256(video.path): video.path for video in found}
    config = _config(manifest, head)
    builder = Builder(
        folder,
        config,
        options or BuildOptions(),
        make_tracker or default_tracker,
        make_embedder or default_embedder,
    )
    failed = []
    for shard in shards:
        try:
            plan = _plan(folder, shard, by_hash, config)
        except ValueError as error:
            failed.append(f"{shard.name}: {error}")
            continue
        for suffix in ("json", "tar", *_INDICES):
            (folder / f"{shard.name}.{suffix}").unlink(missing_ok=True)
        builder.build([plan], log)
        made = ShardInfo.load(folder / f"{shard.name}.json")
        if made.sha256 != shard.sha256:
            failed.append(
                f"{shard.name}: rebuilt with different bytes because tool versions differ; run rome "
                "prepare, which gives the dataset a new hash"
            )
    return failed


def _config(manifest: Manifest, head: str) -> PrepareConfig:
    known = {field.name for field in fields(PrepareConfig)}
    options = {name: value for name, value in manifest.configuration.items() if name in known}
    if "deca" in options:
        raise ValueError("its parameters are DECA's; run rome prepare again, with --deca deca_model.tar")
    try:
        return PrepareConfig(**{**options, "head": head})
    except TypeError as error:
        raise ValueError(f"the dataset was not made by rome prepare: {error}") from error


def _plan(folder: Path, shard: ManifestShard, videos: Mapping[str, Path], config: PrepareConfig) -> ShardPlan:
    """The plan for one shard.

    Raises:
        ValueError: it cannot be rebuilt here; the message says why.
    """
    spec = _spec(folder, shard)
    head = load_head(config.head)
    ours = {
        "schema": SCHEMA,
        "tracker": TRACKER,
        "head": {"name": head.name, "sha256": head_digest(head)},
    }
    for what, value in ours.items():
        if spec.get(what) != value:
            raise ValueError(f"it was built with {what} {spec.get(what)}, here is {value}")
    absent = [item["source"] for item in spec["inputs"] if not videos.keys() >= set(_hashes(item))]
    if absent:
        raise ValueError(f"it needs {', '.join(absent)}: pass these videos, or their folder, with --videos")
    common = {key: value for key, value in spec.items() if key not in ("split", "inputs")}
    parts = []
    for item in spec["inputs"]:
        files = tuple(videos[digest] for digest in _hashes(item))
        photos = files if files[0].suffix.lower() in PHOTO_SUFFIXES else ()
        video = VideoInput(
            files[0], item["key"], item["identity"], item["sha256"], item["source"], photos,
            tuple(item.get("photos", ())),
        )  # fmt: skip
        part_spec = {**common, "input": item}
        parts.append(Part(f"{item['key']}-{sha256_of(part_spec)[:12]}", video, part_spec))
    return ShardPlan(shard.split, shard.name, spec, parts)


def _hashes(item: Mapping[str, Any]) -> list[str]:
    """sha256 of the files of an input."""
    return list(item.get("photos", [item["sha256"]]))


def _spec(folder: Path, shard: ManifestShard) -> dict[str, Any]:
    path = folder / f"{shard.name}.json"
    try:
        spec = ShardInfo.load(path).spec
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path.name}, which names its videos, is missing; run rome prepare again"
        ) from error
    if sha256_of(spec) != shard.spec_hash or "inputs" not in spec or "settings" not in spec:
        raise ValueError(
            f"{path.name} does not name the videos that it was built from; prepare the dataset again"
        )
    return spec
