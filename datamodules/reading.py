"""Random access to the frames of a dataset: one ``pread`` per frame, checked by checksum."""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from datamodules.codec import (
    META_TENSORS,
    OPTIONAL_META_TENSORS,
    PARAMETER_TENSORS,
    CorruptDataError,
    decode_image,
    decode_masks,
    decode_meta,
    meta_layout,
    select_frames,
)
from datamodules.manifest import Manifest
from datamodules.plan import PlanClip
from datamodules.remote import RemoteFolder
from datamodules.shards import CLIP_ROW, FRAME_ROW, WITH_ZLIB_LABELS, WITHOUT_PARAMS
from rome_lightning.media.digest import SEAL_BYTES, check_seal, is_sealed, note_missing

_META_CACHE = 256
"""Decoded clip metas kept per process (about 0.3 MB each at 64 frames)."""


@dataclass(frozen=True)
class FrameImages:
    """Decoded pixels of one stored frame."""

    image: UInt8[np.ndarray, "h w 3"]
    regions: UInt8[np.ndarray, "h w"]
    matte: UInt8[np.ndarray, "h w"]


class ClipReader:
    """Reads the clips of one split by number.

    The index is memory-mapped and files are opened on first use in each process, so an instance can
    be pickled to workers or shared with forked ones.

    Args:
        manifest: of the dataset.
        folder: that holds the shards.
        split: ``train``, ``val`` or ``test``.
        remote: where files come from that are not in ``folder`` yet, which is its cache; shards are fetched
            when something in them is asked for.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, split: str, remote: RemoteFolder | None = None
    ) -> None:
        self.folder = folder
        self.remote = remote
        if remote is not None:
            kinds = (
                ("frames", "clips") if manifest.schema == WITHOUT_PARAMS else ("frames", "clips", "params")
            )
            for shard in manifest.split(split):
                for kind in kinds:
                    remote.fetch(f"{shard.name}.{kind}.npy")
        self.split = split
        self.image_size = manifest.image_size
        self.has_offsets = bool(manifest.configuration.get("fit_outline", False))
        """Whether the clips have offsets that were fitted to the person's outline."""
        self.shards = manifest.split(split)
        self._zlib_labels = manifest.schema in WITH_ZLIB_LABELS
        self._starts = [0, *accumulate(shard.clips for shard in self.shards)]
        self._verify_indices()
        self._open_indices()
        self._files: dict[int, int] = {}
        self._metas: OrderedDict[int, tuple[dict[str, np.ndarray], dict[str, str]]] = OrderedDict()
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        self._process = os.getpid()

    def _verify_indices(self) -> None:
        """Compare every index with its digest, once: other processes map what this one has verified."""
        without = []
        for shard in self.shards:
            for path in (self.folder / f"{shard.name}.{kind}.npy" for kind in ("frames", "clips", "params")):
                try:
                    if path.is_file() and not check_seal(path):
                        without.append(path)
                except ValueError as error:
                    raise _damaged(path, error) from error
        if without:
            note_missing(without[0], f"nor have {len(without) - 1} other indices of this split")

    def _open_indices(self) -> None:
        folder, shards = self.folder, self.shards
        self._frames = [_open_index(folder / f"{s.name}.frames.npy", FRAME_ROW, s.frames) for s in shards]
        self._clips = [_open_index(folder / f"{s.name}.clips.npy", CLIP_ROW, s.clips) for s in shards]
        self._checks = [_open_checks(folder / f"{s.name}.params.npy", s.frames) for s in shards]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps would be pickled as copies; the other side maps the files again.
        dropped: dict[str, Any] = {
            "_files": {},
            "_metas": OrderedDict(),
            "_frames": [],
            "_clips": [],
            "_checks": [],
        }
        return {**self.__dict__, **dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process = os.getpid()
        self._open_indices()

    def __del__(self) -> None:
        # A forked child shares the numbers but must not close what it did not open.
        if getattr(self, "_process", None) == os.getpid():
            for handle in self._files.values():
                os.close(handle)

    def _locate(self, clip: int) -> tuple[int, np.void]:
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of {len(self)}")
        shard = bisect_right(self._starts, clip) - 1
        return shard, self._clips[shard][clip - self._starts[shard]]

    def key(self, clip: int) -> str:
        """Name of a clip."""
        return bytes(self._locate(clip)[1]["key"]).decode()

    def plan_clips(self) -> list[PlanClip]:
        """All clips with the frames that may be used."""
        clips = []
        for shard, rows in enumerate(self._clips):
            for row in rows:
                first, count = int(row["first_frame"]), int(row["num_frames"])
                valid = self._frames[shard]["valid"][first : first + count]
                clips.append(PlanClip(shard, tuple(int(i) for i in np.flatnonzero(valid))))
        return clips

    def meta(self, clip: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Tensors and header of a clip, see ``datamodules.codec.META_TENSORS``.

        Raises:
            CorruptDataError: the bytes do not match their checksum.
        """
        if clip in self._metas:
            self._metas.move_to_end(clip)
            return self._metas[clip]
        shard, row = self._locate(clip)
        data = self._read(shard, int(row["meta_position"]), int(row["meta_length"]), int(row["meta_crc32"]))
        self._metas[clip] = decode_meta(data)
        if len(self._metas) > _META_CACHE:
            self._metas.popitem(last=False)
        return self._metas[clip]

    def parameters(self, clip: int, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """Rows of ``PARAMETER_TENSORS`` for frames of a clip, its ``shape``, repeated, and any ``offsets``.

        Reads no more than these rows where the shard has their checksums (``NAME.params.npy``), else the
        meta of the whole clip.

        Raises:
            CorruptDataError: the bytes do not match their checksum.
        """
        shard, row = self._locate(clip)
        checks = self._checks[shard]
        if checks is None or clip in self._metas:
            return select_frames(self.meta(clip)[0], frames)
        rest = self._parameter_shapes(shard)
        count = int(row["num_frames"])
        layout = _meta_places(count, rest)
        body = int(row["meta_position"]) + int(row["meta_length"]) - layout["valid"][1]
        shared = {
            name: self._pread(shard, body + layout[name][0], layout[name][1] - layout[name][0])
            for name in ("shape", "offsets")
            if name in layout
        }
        start_value = 0
        for data in shared.values():
            start_value = zlib.crc32(data, start_value)
        rows: dict[str, list[bytes]] = {name: [] for name in PARAMETER_TENSORS}
        for frame in frames:
            value = start_value
            for name in PARAMETER_TENSORS:
                start, end = layout[name]
                length = (end - start) // count
                rows[name].append(self._pread(shard, body + start + frame * length, length))
                value = zlib.crc32(rows[name][-1], value)
            if value != checks[int(row["first_frame"]) + frame]:
                raise CorruptDataError(
                    f"{self.shards[shard].name}.tar: parameters of frame {frame} of clip {self.key(clip)} do "
                    "not match their checksum"
                )
        values = {
            name: np.frombuffer(b"".join(parts), dtype="<f4").reshape(len(frames), *rest[name])
            for name, parts in rows.items()
        }
        shape = np.frombuffer(shared["shape"], dtype="<f4")
        values["shape"] = np.broadcast_to(shape, (len(frames), *rest["shape"]))
        if "offsets" in shared:
            values["offsets"] = np.frombuffer(shared["offsets"], dtype="<f2").reshape(rest["offsets"])
        return values

    def _parameter_shapes(self, shard: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a shard's clips, without the number of frames."""
        if shard not in self._shapes:
            arrays = self._first_readable_meta(shard)
            if self.has_offsets != ("offsets" in arrays):
                raise ValueError(
                    f"{self.shards[shard].name}.tar does not belong to its manifest, which says "
                    f"fit_outline: {self.has_offsets}; prepare the dataset again"
                )
            shapes = {name: arrays[name].shape[1:] for name in PARAMETER_TENSORS}
            shared = ("shape", "offsets") if self.has_offsets else ("shape",)
            self._shapes[shard] = {**{name: arrays[name].shape for name in shared}, **shapes}
        return self._shapes[shard]

    def _first_readable_meta(self, shard: int) -> dict[str, np.ndarray]:
        for clip in range(self._starts[shard], self._starts[shard + 1]):
            try:
                return self.meta(clip)[0]
            except CorruptDataError:
                continue
        raise CorruptDataError(f"{self.shards[shard].name}.tar: no clip has readable parameters")

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one frame's parameters and of a clip's ``offsets``; those of all clips of the dataset.

        Raises:
            CorruptDataError: no clip is readable.
        """
        for shard in range(len(self.shards)):
            try:
                return self._parameter_shapes(shard)
            except CorruptDataError:
                continue
        raise CorruptDataError(f"no clip in {self.folder} has readable parameters")

    def frame(self, clip: int, frame: int, out: FrameImages | None = None) -> FrameImages:
        """Pixels of a frame.

        Args:
            clip: number of the clip.
            frame: index in the clip.
            out: contiguous memory of the stored size to decode into; new memory if None.

        Raises:
            CorruptDataError: the bytes do not match their checksum or do not decode.
        """
        shard, clip_row = self._locate(clip)
        row = self._frames[shard][int(clip_row["first_frame"]) + frame]
        position, mask_position, length, crc32, mask_length, mask_crc32, *_ = row.item()
        data = self._read(shard, position, length, crc32)
        masks = self._read(shard, mask_position, mask_length, mask_crc32)
        if out is None:
            regions, matte = decode_masks(masks, zlib_labels=self._zlib_labels)
            return FrameImages(decode_image(data), regions, matte)
        decode_image(data, out.image)
        decode_masks(masks, out.regions, out.matte, self._zlib_labels)
        return out

    def _read(self, shard: int, position: int, length: int, crc32: int) -> bytes:
        data = self._pread(shard, position, length)
        # Without this check a flipped bit decodes to a visibly wrong picture in one case of five.
        if zlib.crc32(data) != crc32:
            name = self.shards[shard].name
            raise CorruptDataError(f"{name}.tar: {length} bytes at {position} do not match their checksum")
        return data

    def _pread(self, shard: int, position: int, length: int) -> bytes:
        if self._process != os.getpid():
            # After a fork: positions are explicit, so parents' handles would work, but not be ours to close.
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            path = self.folder / f"{self.shards[shard].name}.tar"
            if self.remote is not None:
                path = self.remote.fetch_shard(self.shards[shard])
            self._files[shard] = os.open(path, os.O_RDONLY)
            if hasattr(os, "posix_fadvise"):
                # Otherwise the system reads the neighbourhood of every frame as well.
                os.posix_fadvise(self._files[shard], 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(self._files[shard], length, position)


class JoinedReader:
    """Several readers as one: clips are numbered on from one to the next.

    Args:
        readers: of one split each.
    """

    def __init__(self, readers: Sequence[ClipReader]) -> None:
        self.readers = list(readers)
        self._starts = [0]
        for reader in readers:
            self._starts.append(self._starts[-1] + len(reader))

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def image_size(self) -> int:
        """Of the stored frames."""
        return self.readers[0].image_size

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``ClipReader.parameter_shapes``; without ``offsets`` if some of the datasets have none."""
        shapes = self.readers[0].parameter_shapes()
        if not all(reader.has_offsets for reader in self.readers):
            shapes = {name: shape for name, shape in shapes.items() if name != "offsets"}
        return shapes

    def _locate(self, clip: int) -> tuple[ClipReader, int]:
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of {len(self)}")
        place = bisect_right(self._starts, clip) - 1
        return self.readers[place], clip - self._starts[place]

    def key(self, clip: int) -> str:
        """Name of a clip."""
        reader, local = self._locate(clip)
        return reader.key(local)

    def plan_clips(self) -> list[PlanClip]:
        """All clips with the frames that may be used; shards are numbered on as well."""
        clips, first = [], 0
        for reader in self.readers:
            clips += [PlanClip(first + clip.shard, clip.frames) for clip in reader.plan_clips()]
            first += len(reader.shards)
        return clips

    def meta(self, clip: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """See ``ClipReader.meta``."""
        reader, local = self._locate(clip)
        return reader.meta(local)

    def parameters(self, clip: int, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``ClipReader.parameters``."""
        reader, local = self._locate(clip)
        return reader.parameters(local, frames)

    def frame(self, clip: int, frame: int, out: FrameImages | None = None) -> FrameImages:
        """See ``ClipReader.frame``."""
        reader, local = self._locate(clip)
        return reader.frame(local, frame, out)


@lru_cache(maxsize=1024)
def _meta_layout_of(
    count: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> dict[str, tuple[int, int]]:
    """Places of the tensors of a clip of so many frames, see ``meta_layout``."""
    known = dict(shapes)
    full = {name: (count, *known.get(name, ())) for name in META_TENSORS}
    full |= {"shape": known["shape"], "bbox": (count, 4)}
    full |= {name: known[name] for name in OPTIONAL_META_TENSORS if name in known}
    full |= {"frame_offsets": (count + 1,), "mask_offsets": (count + 1,)}
    return meta_layout(full)


def _meta_places(count: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    return _meta_layout_of(count, tuple(shapes.items()))


def _open_checks(path: Path, rows: int) -> np.ndarray | None:
    """Checksums of the parameters per frame; shards of ``rome-shard/1.1`` and before have none."""
    if not path.exists():
        return None
    checks = _map(path)
    if checks.dtype != np.dtype("<u4") or len(checks) != rows:
        raise ValueError(f"{path} does not belong to its shard ({len(checks)} rows, wanted {rows})")
    return checks.view(np.ndarray)


def _damaged(path: Path, reason: Exception | str) -> ValueError:
    return ValueError(f"index {path} is damaged: {reason}; `rome shards verify --repair` makes it anew")


def _map(path: Path) -> np.ndarray:
    """A memory map of an index.

    Raises:
        ValueError: the file is longer or shorter than its header says.
    """
    try:
        rows = np.load(path, mmap_mode="r")
    except Exception as error:
        # The header is Python text: what its damage makes the parser raise depends on where it is.
        raise _damaged(path, error) from error
    surplus = path.stat().st_size - rows.offset - rows.nbytes
    if surplus and not (surplus == SEAL_BYTES and is_sealed(path)):
        raise _damaged(path, f"{surplus} bytes too many")
    return rows


def _open_index(path: Path, dtype: np.dtype, rows: int) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(
            f"index {path} is missing; copy it beside its shard or prepare the dataset again"
        )
    index = _map(path)
    if index.dtype != dtype or len(index) != rows:
        raise ValueError(f"index {path} does not belong to its shard ({len(index)} rows, wanted {rows})")
    # A plain view: rows of ``np.memmap`` cost several times as much to take.
    return index.view(np.ndarray)
