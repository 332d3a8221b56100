"""Checks of a dataset on disk: every byte against its manifest and indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.codec import CorruptDataError
from datamodules.manifest import Manifest, ManifestIndex, ManifestShard
from datamodules.reading import ClipReader
from datamodules.shards import WITHOUT_PARAMS, ShardIndex, ShardInfo, sha256_of, without_typical
from datamodules.split_index import problem_of, write_index
from rome_lightning.media.digest import file_sha256, unsealed

_MOST_NAMED = 5


@dataclass(frozen=True)
class Problem:
    """Something wrong with a shard."""

    shard: str
    what: str
    index_only: bool = False
    """The shard itself is intact, so its index can be rebuilt from it."""


def verify(folder: Path, manifest: Manifest) -> Iterator[tuple[ManifestShard, list[Problem]]]:
    """Check shard by shard; yield each with its problem.

    Args:
        folder: of the dataset.
        manifest: loaded with ``check_files=False``.
    """
    for shard in manifest.shards:
        yield shard, _verify_shard(folder, manifest, shard)


def verify_indices(folder: Path, manifest: Manifest) -> Iterator[tuple[ManifestIndex, str]]:
    """Check the joined indices; yield each with its problem, empty if there is none."""
    for entry in manifest.indices:
        path = folder / entry.name
        yield entry, (problem_of(path, entry) if path.exists() else "it is missing")


def repair_split_index(folder: Path, manifest: Manifest, entry: ManifestIndex) -> str:
    """Rebuild the joined index of a split from its intact shards; return why that failed, or ""."""
    try:
        made = write_index(folder, entry.split, manifest.split(entry.split))
    except (OSError, ValueError) as error:
        return str(error)
    if made == entry:
        return ""
    (folder / made.name).unlink()
    return "the rebuilt index has different bytes; run rome prepare, which gives the dataset a new hash"


def _verify_shard(folder: Path, manifest: Manifest, shard: ManifestShard) -> list[Problem]:
    tar = folder / f"{shard.name}.tar"
    if not tar.exists():
        return [Problem(shard.name, f"{tar.name} is missing")]
    problems = [Problem(shard.name, what) for what in _check_sidecar(folder, shard)]
    if file_sha256(tar) != shard.sha256:
        size = tar.stat().st_size
        length = "" if size == shard.bytes else f", it has {size} bytes instead of {shard.bytes}"
        damaged = _damaged_clips(folder, manifest, shard) if not length else ""
        what = f"{tar.name} does not match its sha256{length}{damaged}"
        return [*problems, Problem(shard.name, what)]
    for kind, content in ShardIndex.of_tar(tar).files().items():
        path = folder / f"{shard.name}.{kind}.npy"
        if not path.exists():
            if kind == "params" and manifest.schema == WITHOUT_PARAMS:
                continue
            problems.append(Problem(shard.name, f"{path.name} is missing", index_only=True))
        elif path.read_bytes() not in _spellings(kind, content):
            problems.append(Problem(shard.name, f"{path.name} does not fit its shard", index_only=True))
    return problems


def _spellings(kind: str, content: bytes) -> list[bytes]:
    """An index file as this and earlier versions write it."""
    known = [content, without_typical(content)] if kind == "clips" else [content]
    return [spelling for data in known for spelling in (data, unsealed(data))]


def _check_sidecar(folder: Path, shard: ManifestShard) -> Iterator[str]:
    path = folder / f"{shard.name}.json"
    if not path.exists():
        yield f"{path.name} is missing"
        return
    try:
        info = ShardInfo.load(path)
    except (ValueError, TypeError) as error:
        yield f"{path.name} cannot be read: {error}"
        return
    if sha256_of(info.spec) != info.spec_hash or info.spec_hash != shard.spec_hash:
        yield f"{path.name} describes a different shard than the manifest (its spec has another hash)"
    for name in ("bytes", "sha256", "clips", "frames"):
        stated, wanted = getattr(info, name), getattr(shard, name)
        if stated != wanted:
            yield f"{path.name} states {name} {stated}, the manifest {wanted}"


def _damaged_clips(folder: Path, manifest: Manifest, shard: ManifestShard) -> str:
    """The unusable frames of a shard, as far as its index shows."""
    alone = dataclasses.replace(manifest, shards=[shard], indices=[])
    try:
        reader = ClipReader(alone, folder, shard.split)
    except (ValueError, FileNotFoundError):
        return ""
    found = []
    for number, clip in enumerate(reader.plan_clips()):
        try:
            reader.meta(number)
        except CorruptDataError:
            found.append(f"parameters of {reader.key(number)}")
        for frame in clip.frames:
            try:
                reader.frame(number, frame)
            except CorruptDataError:
                found.append(f"frame {frame} of {reader.key(number)}")
    if not found:
        return "; all its usable frames are good, so the damage is between them"
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"; damaged: {', '.join(found[:_MOST_NAMED])}{more}"


def repair_index(folder: Path, shard: ManifestShard) -> None:
    """Rewrite the index of an intact shard."""
    ShardIndex.of_tar(folder / f"{shard.name}.tar").write(folder, shard.name)
