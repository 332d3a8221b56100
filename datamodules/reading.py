"""Random access to the frames of a dataset: one ``pread`` per frame, checked by checksum."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from datamodules.codec import CorruptDataError, decode_image, decode_masks, decode_meta
from datamodules.manifest import Manifest
from datamodules.plan import PlanClip
from datamodules.shards import CLIP_ROW, FRAME_ROW

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
    """

    def __init__(self, manifest: Manifest, folder: Path, split: str) -> None:
        self.folder = folder
        self.split = split
        self.shards = manifest.split(split)
        self._starts = np.concatenate([[0], np.cumsum([s.clips for s in self.shards])]).astype(np.int64)
        self._open_indices()
        self._files: dict[int, int] = {}
        self._metas: OrderedDict[int, tuple[dict[str, np.ndarray], dict[str, str]]] = OrderedDict()
        self._process = os.getpid()

    def _open_indices(self) -> None:
        folder, shards = self.folder, self.shards
        self._frames = [_open_index(folder / f"{s.name}.frames.npy", FRAME_ROW, s.frames) for s in shards]
        self._clips = [_open_index(folder / f"{s.name}.clips.npy", CLIP_ROW, s.clips) for s in shards]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps would be pickled as copies; the other side maps the files again.
        dropped: dict[str, Any] = {"_files": {}, "_metas": OrderedDict(), "_frames": [], "_clips": []}
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
        shard = int(np.searchsorted(self._starts, clip, side="right")) - 1
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

    def frame(self, clip: int, frame: int) -> FrameImages:
        """Pixels of a frame.

        Raises:
            CorruptDataError: the bytes do not match their checksum or do not decode.
        """
        shard, clip_row = self._locate(clip)
        row = self._frames[shard][int(clip_row["first_frame"]) + frame]
        position, mask_position, length, crc32, mask_length, mask_crc32, *_ = row.item()
        image = decode_image(self._read(shard, position, length, crc32))
        masks = self._read(shard, mask_position, mask_length, mask_crc32)
        return FrameImages(image, *decode_masks(masks))

    def _read(self, shard: int, position: int, length: int, crc32: int) -> bytes:
        if self._process != os.getpid():
            # After a fork: positions are explicit, so parents' handles would work, but not be ours to close.
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            path = self.folder / f"{self.shards[shard].name}.tar"
            self._files[shard] = os.open(path, os.O_RDONLY)
        data = os.pread(self._files[shard], length, position)
        # Without this check a flipped bit decodes to a visibly wrong picture in one case of five.
        if zlib.crc32(data) != crc32:
            name = self.shards[shard].name
            raise CorruptDataError(f"{name}.tar: {length} bytes at {position} do not match their checksum")
        return data


def _open_index(path: Path, dtype: np.dtype, rows: int) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(
            f"index {path} is missing; copy it beside its shard or prepare the dataset again"
        )
    index = np.load(path, mmap_mode="r")
    if index.dtype != dtype or len(index) != rows:
        raise ValueError(f"index {path} does not belong to its shard ({len(index)} rows, wanted {rows})")
    return index
