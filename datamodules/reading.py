"""Random access to the frames of a dataset: one ``pread`` per frame, checked by checksum."""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    full_pose,
    meta_layout,
    select_frames,
)
from datamodules.manifest import Manifest
from datamodules.plan import ClipTable
from datamodules.remote import RemoteFolder
from datamodules.shards import WITH_ZLIB_LABELS, WITHOUT_PARAMS, typical_frame
from datamodules.split_index import Shapes, SplitIndex, gather_index, open_index, parameter_shapes
from rome_lightning.media.descriptors import OpenFiles
from rome_lightning.types.params import STORED_POSE_SIZE

_META_CACHE = 32
"""Decoded clip metadata kept per process (about 0.3 MB each at 64 frames)."""
_READ_WHOLE = 16 * 1024
"""Bytes of a clip's tensor up to which all its rows are read for some of them, or that are skipped between
two tensors read at once: one call of the system costs as much as to copy them."""


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
        remote: source of files that are not yet in ``folder``, which is its cache; shards are fetched on
            first use.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, split: str, remote: RemoteFolder | None = None
    ) -> None:
        self.folder = folder
        self.remote = remote
        self.split = split
        self.image_size = manifest.image_size
        self.has_offsets = bool(manifest.configuration.get("fit_outline", False))
        """Whether the clips have offsets that were fitted to the person's outline."""
        # Without what workers do not need: of many shards it takes megabytes in each of them.
        nobody: list[str] = []
        self.shards = [
            replace(shard, split=split, spec_hash="", identities=nobody) for shard in manifest.split(split)
        ]
        self._zlib_labels = manifest.schema in WITH_ZLIB_LABELS
        self._starts = array("q", [0, *accumulate(shard.clips for shard in self.shards)])
        self._frame_starts = array("q", [0, *accumulate(shard.frames for shard in self.shards)])
        self._index = self._open_index(manifest)
        self._files = OpenFiles()
        self._metas: OrderedDict[int, tuple[dict[str, np.ndarray], dict[str, str]]] = OrderedDict()
        self._shapes: dict[int, Shapes] = {}
        self._table: ClipTable | None = None

    def _open_index(self, manifest: Manifest) -> SplitIndex:
        entry = manifest.index(self.split)
        if entry is not None:
            path = self.folder / entry.name
            if self.remote is not None:
                path = self.remote.fetch(entry.name, entry.bytes, entry.sha256, verify_kept=True)
            is_verified = self.remote is not None
            return open_index(path, entry, self._frame_starts[-1], self._starts[-1], is_verified)
        if self.remote is not None:
            self.remote.fetch_indices(self.shards, with_params=manifest.schema != WITHOUT_PARAMS)
        return gather_index(self.folder, self.shards)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_metas": OrderedDict(), "_table": None}

    def _locate(self, clip: int) -> tuple[int, np.void]:
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of {len(self)}")
        shard = bisect_right(self._starts, clip) - 1
        return shard, self._index.clips[clip]

    def key(self, clip: int) -> str:
        """Name of a clip."""
        return bytes(self._locate(clip)[1]["key"]).decode()

    def plan_clips(self) -> ClipTable:
        """All clips with the frames that may be used."""
        if self._table is None:
            self._table = self._make_table()
        return self._table

    def _make_table(self) -> ClipTable:
        clips = self._index.clips
        shards = np.repeat(np.arange(len(self.shards), dtype=np.int32), [s.clips for s in self.shards])
        counts = clips["num_frames"].astype(np.int64)
        firsts = np.array(self._frame_starts[:-1], np.int64)[shards] + clips["first_frame"]
        if not np.array_equal(firsts, np.cumsum(counts) - counts) or counts.sum() != self._frame_starts[-1]:
            raise ValueError(
                f"the index of split {self.split!r} in {self.folder} does not belong to its shards; `rome "
                "shards verify --repair` rebuilds it"
            )
        usable = np.flatnonzero(self._index.frames["valid"])
        clip_of = np.repeat(np.arange(len(clips), dtype=np.int32), counts)[usable]
        num_usable = np.bincount(clip_of, minlength=len(clips))
        frames = (usable - firsts[clip_of]).astype(np.uint16 if counts.max(initial=0) < 1 << 16 else np.int64)
        return ClipTable(shards, np.cumsum(num_usable) - num_usable, num_usable, frames)

    def typical_frame(self, clip: int, frames: Sequence[int]) -> int:
        """The frame of a clip whose expression is nearest to the median of the given ones.

        Read from the index if the given frames are all usable frames, else from the clip.
        """
        known = int(self._locate(clip)[1]["reserved"]) - 1
        if known >= 0 and len(frames) == int(self.plan_clips().counts[clip]):
            return known
        return typical_frame(self.parameters(clip, frames)["expression"], frames)

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

        Reads only these rows if the shard has their checksums (``NAME.params.npy``), else the metadata of the
        whole clip.

        Raises:
            CorruptDataError: the bytes do not match their checksum.
        """
        shard, row = self._locate(clip)
        checks = self._index.checks
        if checks is None or shard in self._index.unchecked or clip in self._metas:
            return select_frames(self.meta(clip)[0], frames)
        rest = self._parameter_shapes(shard)
        count = int(row["num_frames"])
        layout, spans = _meta_places(count, rest)
        body = int(row["meta_position"]) + int(row["meta_length"]) - layout["valid"][1]
        whole: dict[str, memoryview] = {}
        for start, end, names in spans:
            data = memoryview(self._pread(shard, body + start, end - start))
            for name in names:
                whole[name] = data[layout[name][0] - start : layout[name][1] - start]
        start_value = zlib.crc32(whole["shape"])
        if "offsets" in whole:
            start_value = zlib.crc32(whole["offsets"], start_value)
        rows: dict[str, list[bytes | memoryview]] = {name: [] for name in PARAMETER_TENSORS}
        for frame in frames:
            value = start_value
            for name in PARAMETER_TENSORS:
                start, end = layout[name]
                length = (end - start) // count
                if name in whole:
                    part: bytes | memoryview = whole[name][frame * length : (frame + 1) * length]
                else:
                    part = self._pread(shard, body + start + frame * length, length)
                rows[name].append(part)
                value = zlib.crc32(part, value)
            if value != checks[self._frame_starts[shard] + int(row["first_frame"]) + frame]:
                raise CorruptDataError(
                    f"{self.shards[shard].name}.tar: parameters of frame {frame} of clip {self.key(clip)} do "
                    "not match their checksum"
                )
        values = {
            name: np.frombuffer(b"".join(parts), dtype="<f4").reshape(len(frames), *rest[name])
            for name, parts in rows.items()
        }
        values["pose"] = full_pose(values["pose"])
        shape = np.frombuffer(whole["shape"], dtype="<f4")
        values["shape"] = np.broadcast_to(shape, (len(frames), *rest["shape"]))
        if "offsets" in whole:
            values["offsets"] = np.frombuffer(whole["offsets"], dtype="<f2").reshape(rest["offsets"])
        return values

    def _parameter_shapes(self, shard: int) -> Shapes:
        """Shapes of the tensors of a shard's clips, without the number of frames."""
        if self._index.shapes is not None:
            return self._index.shapes
        if shard not in self._shapes:
            arrays = self._first_readable_meta(shard)
            if self.has_offsets != ("offsets" in arrays):
                raise ValueError(
                    f"{self.shards[shard].name}.tar does not belong to its manifest, which says "
                    f"fit_outline: {self.has_offsets}; prepare the dataset again"
                )
            self._shapes[shard] = parameter_shapes(arrays)
        return self._shapes[shard]

    def _first_readable_meta(self, shard: int) -> dict[str, np.ndarray]:
        for clip in range(self._starts[shard], self._starts[shard + 1]):
            try:
                return self.meta(clip)[0]
            except CorruptDataError:
                continue
        raise CorruptDataError(f"{self.shards[shard].name}.tar: no clip has readable parameters")

    def parameter_shapes(self) -> Shapes:
        """Shapes of one frame's parameters and of a clip's ``offsets``; those of all clips of the dataset.

        Raises:
            CorruptDataError: no clip is readable.
        """
        for shard in range(len(self.shards)):
            try:
                return {**self._parameter_shapes(shard), "pose": (STORED_POSE_SIZE,)}
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
        row = self._index.frames[self._frame_starts[shard] + int(clip_row["first_frame"]) + frame]
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
        # Without this check, one flipped bit in five decodes to a visibly wrong image.
        if zlib.crc32(data) != crc32:
            name = self.shards[shard].name
            raise CorruptDataError(f"{name}.tar: {length} bytes at {position} do not match their checksum")
        return data

    def _pread(self, shard: int, position: int, length: int) -> bytes:
        path = f"{self.folder}/{self.shards[shard].name}.tar"
        handle = self._files.get(path)
        while handle is None:
            if self.remote is not None:
                self.remote.fetch_shard(self.shards[shard])
            try:
                handle = self._files.open(path)
            except FileNotFoundError:
                # Another process may have removed it to make room for another shard.
                if self.remote is None:
                    raise
        return os.pread(handle, length, position)


class JoinedReader:
    """Several readers as one: clip numbers continue from one to the next.

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
        """Size of the stored frames."""
        return self.readers[0].image_size

    def parameter_shapes(self) -> Shapes:
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

    def plan_clips(self) -> ClipTable:
        """All clips with their usable frames; shard numbers continue too."""
        tables = [reader.plan_clips() for reader in self.readers]
        return ClipTable.joined(tables, [len(reader.shards) for reader in self.readers])

    def typical_frame(self, clip: int, frames: Sequence[int]) -> int:
        """See ``ClipReader.typical_frame``."""
        reader, local = self._locate(clip)
        return reader.typical_frame(local, frames)

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


_Span = tuple[int, int, tuple[str, ...]]
"""Start and end of bytes that are read at once, and the tensors in them."""


@lru_cache(maxsize=1024)
def _meta_layout_of(
    count: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> tuple[dict[str, tuple[int, int]], tuple[_Span, ...]]:
    """Positions of the tensors of a clip with this many frames (``meta_layout``), and what to read whole."""
    known = dict(shapes)
    full = {name: (count, *known.get(name, ())) for name in META_TENSORS}
    full |= {"shape": known["shape"], "bbox": (count, 4)}
    full |= {name: known[name] for name in OPTIONAL_META_TENSORS if name in known}
    full |= {"frame_offsets": (count + 1,), "mask_offsets": (count + 1,)}
    layout = meta_layout(full)
    shared = ("shape", "offsets")
    spans: list[_Span] = []
    for name in sorted({*PARAMETER_TENSORS, *shared} & layout.keys(), key=lambda name: layout[name]):
        start, end = layout[name]
        if name not in shared and end - start > _READ_WHOLE:
            continue
        if spans and start - spans[-1][1] <= _READ_WHOLE:
            first, _, names = spans.pop()
            spans.append((first, end, (*names, name)))
        else:
            spans.append((start, end, (name,)))
    return layout, tuple(spans)


def _meta_places(
    count: int, shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, int]], tuple[_Span, ...]]:
    return _meta_layout_of(count, tuple(shapes.items()))
