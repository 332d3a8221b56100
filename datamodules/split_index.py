"""Index of all clips and frames of a split.

``rome prepare`` joins the indices of a split's shards into one file, ``SPLIT-HASH.index.safetensors``, which
the manifest names with size and sha256: one file to fetch, verify and map, regardless of the number of
shards.
Datasets of earlier versions have none; their shards' own index files are read and joined in memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt32

from datamodules.codec import OPTIONAL_META_TENSORS, PARAMETER_TENSORS, CorruptDataError, decode_meta
from datamodules.manifest import SPLITS, Manifest, ManifestIndex, ManifestShard
from datamodules.shards import CLIP_ROW, FRAME_ROW
from rome_lightning.media.atomic import commit, temporary_for
from rome_lightning.media.digest import SEAL_BYTES, check_seal, file_sha256, is_sealed, note_missing

SUFFIX = ".index.safetensors"
KINDS = {"frames": FRAME_ROW, "clips": CLIP_ROW, "params": np.dtype("<u4")}
"""Rows of the index files of a shard, ``NAME.KIND.npy``."""
Shapes = dict[str, tuple[int, ...]]
"""Of the parameters of one frame, and of ``shape`` and ``offsets``, by name."""


@dataclass(frozen=True)
class SplitIndex:
    """Index of the shards of a split, one after the other."""

    frames: Shaped[np.ndarray, " frames"]
    """Of ``FRAME_ROW``; ``clip`` counts within the shard."""
    clips: Shaped[np.ndarray, " clips"]
    """Of ``CLIP_ROW``; ``first_frame`` and ``identity`` count within the shard."""
    checks: UInt32[np.ndarray, " frames"] | None
    """Checksum of each frame's parameters; None if no shard has them."""
    unchecked: frozenset[int] = frozenset()
    """Numbers of the shards without such checksums."""
    shapes: Shapes | None = None
    """Shapes of the parameters, if the index states them."""
    path: Path | None = None
    """The file that is mapped; None for one joined in memory."""

    def __getstate__(self) -> dict[str, Any]:
        # A map would be pickled as a copy; the other side maps the file again.
        return {"path": self.path} if self.path is not None else dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        path = state["path"]
        self.__dict__.update(state if path is None else _open(path).__dict__)


def open_index(
    path: Path, entry: ManifestIndex, num_frames: int, num_clips: int, is_verified: bool = False
) -> SplitIndex:
    """Map the index of a split after comparing it with the manifest.

    Args:
        path: of the file.
        entry: what the manifest says of it.
        num_frames: of the split.
        num_clips: of the split.
        is_verified: its bytes have been compared already.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or of another dataset.
    """
    if not path.exists():
        raise FileNotFoundError(f"index {path} is missing; `rome shards verify --repair` rebuilds it")
    problem = "" if is_verified else problem_of(path, entry)
    if problem:
        raise _damaged(path, problem)
    index = _open(path)
    for rows, wanted in ((index.frames, num_frames), (index.clips, num_clips)):
        if len(rows) != wanted:
            raise ValueError(
                f"index {path} does not belong to its manifest ({len(rows)} rows, wanted {wanted})"
            )
    return index


def problem_of(path: Path, entry: ManifestIndex) -> str:
    """How a file differs from its manifest entry; empty if it does not."""
    size = path.stat().st_size
    if size != entry.bytes:
        return f"it has {size} bytes, the manifest wants {entry.bytes}"
    if file_sha256(path) != entry.sha256:
        return "it does not match its sha256"
    return ""


def _open(path: Path) -> SplitIndex:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    shapes = json.loads(header["__metadata__"]["shapes"])
    rows = {}
    for kind, dtype in KINDS.items():
        first, end = header[kind]["data_offsets"]
        # Plain arrays: indexing rows of ``np.memmap`` costs several times as much.
        rows[kind] = np.frombuffer(mapped, dtype, (end - first) // dtype.itemsize, start + first)
    known = {name: tuple(shape) for name, shape in shapes.items()}
    return SplitIndex(rows["frames"], rows["clips"], rows["params"], shapes=known, path=path)


def gather_index(folder: Path, shards: Sequence[ManifestShard]) -> SplitIndex:
    """Join the index files of shards in memory.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged, or of another shard.
    """
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    unchecked, without = set(), []
    for number, shard in enumerate(shards):
        for kind, count in (("frames", shard.frames), ("clips", shard.clips), ("params", shard.frames)):
            path = folder / f"{shard.name}.{kind}.npy"
            if kind == "params" and not path.exists():
                # Shards of ``rome-shard/1`` have none.
                unchecked.add(number)
                rows[kind].append(np.zeros(count, KINDS[kind]))
                continue
            if not check_rows(path, kind, count):
                without.append(path)
            rows[kind].append(np.load(path))
    if without:
        note_missing(without[0], f"nor have {len(without) - 1} other indices of this split")
    joined = {kind: np.concatenate([np.zeros(0, KINDS[kind]), *parts]) for kind, parts in rows.items()}
    checks = joined["params"] if len(unchecked) < len(shards) else None
    return SplitIndex(joined["frames"], joined["clips"], checks, frozenset(unchecked))


def check_rows(path: Path, kind: str, count: int) -> bool:
    """Check an index file of a shard; return whether it has a digest.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, or of another shard.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"index {path} is missing; copy it beside its shard or prepare the dataset again"
        )
    try:
        sealed = check_seal(path)
        rows = np.load(path, mmap_mode="r")
    except Exception as error:
        # The header is Python text, so the parser's exception depends on where the damage is.
        raise _damaged(path, error) from error
    surplus = path.stat().st_size - rows.offset - rows.nbytes
    if surplus and not (surplus == SEAL_BYTES and is_sealed(path)):
        raise _damaged(path, f"{surplus} bytes too many")
    if rows.dtype != KINDS[kind] or len(rows) != count:
        raise ValueError(f"{path} does not belong to its shard ({len(rows)} rows, wanted {count})")
    return sealed


def with_indices(folder: Path, manifest: Manifest) -> Manifest:
    """Write the joined index of every split; return the manifest with them.

    Raises:
        OSError: an index file of a shard is missing, or one cannot be written.
        ValueError: one is damaged.
    """
    indices = [write_index(folder, split, members) for split in SPLITS if (members := manifest.split(split))]
    return replace(manifest, indices=indices)


def remove_old_indices(folder: Path, manifest: Manifest) -> None:
    """Remove the joined indices that the saved manifest of a folder does not name."""
    named = {entry.name for entry in manifest.indices}
    for split in SPLITS:
        for path in folder.glob(f"{split}-????????{SUFFIX}"):
            if path.name not in named:
                path.unlink()


def write_index(folder: Path, split: str, shards: Sequence[ManifestShard]) -> ManifestIndex:
    """Join the index files of a split's shards into one file.

    Args:
        folder: of the dataset.
        split: its name.
        shards: of the split, each with its index files.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: an index is damaged, or no clip is readable.
    """
    counts = {
        kind: sum(shard.clips if kind == "clips" else shard.frames for shard in shards) for kind in KINDS
    }
    header: dict[str, Any] = {"__metadata__": {"shapes": json.dumps(_shapes(folder, shards))}}
    end = 0
    for kind, dtype in KINDS.items():
        start, end = end, end + counts[kind] * dtype.itemsize
        plain = kind == "params"
        header[kind] = {
            "dtype": "U32" if plain else "U8",
            "shape": [counts[kind]] if plain else [counts[kind], dtype.itemsize],
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    temporary = temporary_for(folder / f"{split}{SUFFIX}")
    try:
        with temporary.open("wb") as file:
            for block in _blocks(folder, shards, len(text).to_bytes(8, "little") + text):
                file.write(block)
                digest.update(block)
                size += len(block)
        sha256 = digest.hexdigest()
        name = f"{split}-{sha256[:8]}{SUFFIX}"
        commit(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return ManifestIndex(name, split, size, sha256)


def _blocks(folder: Path, shards: Sequence[ManifestShard], header: bytes) -> Iterator[bytes]:
    yield header
    for kind in KINDS:
        for shard in shards:
            path = folder / f"{shard.name}.{kind}.npy"
            check_rows(path, kind, shard.clips if kind == "clips" else shard.frames)
            yield np.load(path).tobytes()


def _shapes(folder: Path, shards: Sequence[ManifestShard]) -> dict[str, list[int]]:
    """Shapes of the parameters of the first readable clip, which all clips of a dataset share."""
    for shard in shards:
        check_rows(folder / f"{shard.name}.clips.npy", "clips", shard.clips)
        with (folder / f"{shard.name}.tar").open("rb") as file:
            for row in np.load(folder / f"{shard.name}.clips.npy"):
                data = os.pread(file.fileno(), int(row["meta_length"]), int(row["meta_position"]))
                if zlib.crc32(data) == row["meta_crc32"]:
                    shapes = parameter_shapes(decode_meta(data)[0])
                    return {name: list(shape) for name, shape in shapes.items()}
    raise CorruptDataError(f"no clip in {folder} has readable parameters; prepare the dataset again")


def parameter_shapes(arrays: dict[str, np.ndarray]) -> Shapes:
    """Shapes of one frame's parameters, of ``shape`` and of any ``offsets`` of a clip."""
    shared = ("shape", *(name for name in OPTIONAL_META_TENSORS if name in arrays))
    rows = {name: arrays[name].shape[1:] for name in PARAMETER_TENSORS}
    return {**{name: arrays[name].shape for name in shared}, **rows}


def _damaged(path: Path, reason: Exception | str) -> ValueError:
    return ValueError(f"index {path} is damaged: {reason}; `rome shards verify --repair` rebuilds it")
