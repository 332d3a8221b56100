"""From videos to a dataset: shards, manifest and report."""

from __future__ import annotations

import errno
import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from datamodules.manifest import SPLITS, Manifest, build_manifest
from datamodules.prepare.build import Builder, Log, ShardPlan, build_everywhere
from datamodules.prepare.clips import TRACKER
from datamodules.prepare.config import BuildOptions, PrepareConfig
from datamodules.prepare.inputs import VideoInput, expand_inputs, few, hash_inputs, name_inputs, splits_of
from datamodules.prepare.parts import (
    FOLDER,
    MakeEmbedder,
    MakeTracker,
    Part,
    default_tracker,
    read_reports,
    remove_leftovers,
)
from datamodules.prepare.report import look_alikes, write_report
from datamodules.shards import SCHEMA, ShardInfo, finished_shard, sha256_of
from datamodules.split_index import remove_old_indices, with_indices
from rome_lightning.assets import REGISTRY, resolve
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.escaping import printable
from rome_lightning.media.locks import owned
from rome_lightning.tracking.embedding import with_landmarks
from rome_lightning.tracking.foreign import DecaEncoder, check_flame
from rome_lightning.tracking.identity import default_embedder

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_TRACKING_MODELS = ("face_landmarker", "selfie_multiclass", "modnet")
_IDENTITY_MODELS = ("yunet", "sface")


def head_digest(head: HeadModel) -> str:
    """sha256 of the buffers of a head model: a head rebaked or edited under its old name is a different one.

    Parameters depend on all of it, offsets only on its mesh, see ``models.basis.mesh_fingerprint``.
    """
    digest = hashlib.sha256()
    for name, buffer in sorted(head.named_buffers()):
        if head.num_open_faces is not None and name.startswith("landmark_") and name.endswith("_mediapipe"):
            # FLAME's are found by fits, which round differently on other machines; they follow from the rest.
            continue
        digest.update(f"{name} {tuple(buffer.shape)} {buffer.dtype}".encode())
        digest.update(buffer.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def prepare(
    videos: Sequence[Path],
    output: Path,
    config: PrepareConfig | None = None,
    identities: Mapping[str, str] | None = None,
    log: Log | None = None,
    options: BuildOptions | None = None,
    root: Path | None = None,
    identity_from: Literal["video", "folder"] = "video",
    make_tracker: MakeTracker | None = None,
    make_embedder: MakeEmbedder | None = None,
) -> Manifest:
    """Make or complete a dataset from videos and photographs.

    Finished shards of the same inputs and options are kept, and so are finished videos of unfinished
    shards: after an interruption the same call resumes where it stopped and gives the same bytes. Shards
    of other options stay in the folder but not in the manifest.

    Args:
        videos: files, folders or lists, see ``expand_inputs``.
        output: folder of the dataset; created.
        config: defines the dataset.
        identities: person by name without suffix; by default each video is a different person.
        log: receives progress, line by line; stderr by default.
        options: how the work runs; by default in this process.
        root: folder that the lines of lists are relative to; by default that of the list.
        identity_from: ``folder``: the first folder below a given one names the person.
        make_tracker: builds the tracker, once per process; picklable. By default ``default_tracker``.
        make_embedder: the same for the network that tells people apart.

    Returns:
        The manifest, also written to ``output/manifest.json``, with the failed videos in ``failed``.

    Raises:
        FileNotFoundError: a video or a model asset is missing.
        OSError: something cannot be written; what is finished stays.
        ValueError: no video could be used, none is left to train on, or another process writes to the folder.
    """
    config, options, log = config or PrepareConfig(), options or BuildOptions(workers=0), log or _to_stderr
    found, missing = expand_inputs([Path(video) for video in videos], root, identity_from)
    _make_folder(output)
    with owned(output, "rome prepare"):
        hashes, unreadable = hash_inputs(found, output)
        inputs, copies = name_inputs([v for v in found if v.path in hashes], identities or {}, hashes)
        absent = {*config.val_identities, *config.test_identities} - {item.identity for item in inputs}
        if absent:
            raise ValueError(f"val_identities or test_identities name people without a video: {few(absent)}")
        # With its landmarks from the start, so that its hash is that of the head that the tracker used.
        head = with_landmarks(load_head(config.head))
        plans = _plan_shards(inputs, config, head)
        if make_tracker is None:
            # A missing model must end the run instead of failing every video.
            if config.deca is not None:
                check_flame(head, "DECA")
                DecaEncoder.load(Path(config.deca))
            for name in _models(config):
                resolve(name)
        builder = Builder(
            output, config, options, make_tracker or default_tracker, make_embedder or default_embedder
        )
        try:
            build_everywhere(builder, plans, log)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise OSError(
                f"cannot write to {output} any more ({error.strerror}); no partial file is used: free "
                "some space and run the same command again to resume"
            ) from error
        lost = [{**item, "kind": "input"} for item in (*missing, *unreadable, *copies)]
        return _finish(plans, output, config, head, lost, log)


def _finish(
    plans: Sequence[ShardPlan],
    output: Path,
    config: PrepareConfig,
    head: HeadModel,
    lost: Sequence[dict[str, str]],
    log: Log,
) -> Manifest:
    """Manifest and report of finished shards."""
    shards = [(plan.split, _finished(plan, output)) for plan in plans]
    description = {
        "name": head.name,
        "sha256": head_digest(head),
        "num_shape": head.num_shape,
        "num_expression": head.num_expression,
    }
    configuration = config.recorded(head.name)
    manifest = build_manifest(
        config.dataset, config.image_size, description, shards, configuration, config.licence
    )
    manifest = replace(manifest, failed=[*lost, *manifest.failed])
    _check_usable(manifest, output, config)
    manifest = with_indices(output, manifest)
    manifest.save(output / "manifest.json")
    remove_old_indices(output, manifest)
    videos = [report for plan in plans for report in read_reports(output, plan.name)]
    alikes = look_alikes(videos)
    for first, second, similarity in alikes.pairs:
        log(
            f"warning: {first.input} and {second.input} look like one person (similarity {similarity:.2f}) "
            "under two names, which may be in different splits; give them one name with --identities"
        )
    if alikes.total > len(alikes.pairs):
        more = alikes.total - len(alikes.pairs)
        log(f"warning: {more} more pairs of videos look like one person; see report.html")
    write_report(manifest, [info for _, info in shards], videos, output, head, alikes)
    _clean(plans, output)
    return manifest


def _finished(plan: ShardPlan, output: Path) -> ShardInfo:
    info = finished_shard(output, plan.name, plan.spec)
    if info is None:
        raise FileNotFoundError(f"shard {output / plan.name} is gone; run the same command again")
    return info


def _clean(plans: Sequence[ShardPlan], output: Path) -> None:
    """Delete leftovers of killed runs for these shards."""
    folder = output / FOLDER
    remove_leftovers({part.name for plan in plans for part in plan.parts}, folder, whole=True)
    remove_leftovers({plan.name for plan in plans}, output)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def _make_folder(output: Path) -> None:
    """Create the folder and check immediately that it is writable."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to output {output}: {error.strerror}; choose another folder"
        ) from error


def _models(config: PrepareConfig) -> tuple[str, ...]:
    checks = config.min_identity_similarity is not None
    return (*_TRACKING_MODELS, *(_IDENTITY_MODELS if checks else ()))


def _check_usable(manifest: Manifest, output: Path, config: PrepareConfig) -> None:
    failed = "; ".join(f"{item['input']}: {item['reason']}" for item in manifest.failed[:3])
    if not manifest.shards:
        raise ValueError(f"none of the {len(manifest.failed)} videos can be used ({failed})")
    if config.test_ratio < 1 and not manifest.split("train"):
        raise ValueError(
            f"no usable video is left for training in {output}; lower val_ratio and test_ratio, list "
            "val_identities instead, add people, or set test_ratio to 1 for evaluation alone"
        )


def _plan_shards(inputs: Sequence[VideoInput], config: PrepareConfig, head: HeadModel) -> list[ShardPlan]:
    """Every shard of the dataset.

    The name contains the hash of the spec, so another version of a shard is never overwritten.
    """
    common = {
        "schema": SCHEMA,
        "settings": config.clip_settings(),
        "head": {"name": head.name, "sha256": head_digest(head)},
        "tracker": TRACKER,
        "models": {name: REGISTRY[name].sha256 for name in _models(config)},
    }
    plans = []
    split_of = splits_of((item.identity for item in inputs), config)
    for split in SPLITS:
        members = [item for item in inputs if split_of[item.identity] == split]
        for start in range(0, len(members), config.videos_per_shard):
            group = members[start : start + config.videos_per_shard]
            spec = {**common, "split": split, "inputs": [_input_spec(item) for item in group]}
            name = f"{split}-{start // config.videos_per_shard:05d}-{sha256_of(spec)[:8]}"
            plans.append(ShardPlan(split, name, spec, [_part(item, common) for item in group]))
    return plans


def _input_spec(item: VideoInput) -> dict[str, Any]:
    spec = {"key": item.key, "identity": item.identity, "source": item.name, "sha256": item.sha256}
    return {**spec, "photos": list(item.photo_hashes)} if item.photo_hashes else spec


def _part(item: VideoInput, common: Mapping[str, Any]) -> Part:
    spec = {**common, "input": _input_spec(item)}
    return Part(f"{item.key}-{sha256_of(spec)[:12]}", item, spec)


def _to_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
