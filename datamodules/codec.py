"""Bytes of one tracked clip: the three members that a shard stores for it.

``<key>.frames.bin``
    Concatenated baseline JPEG files (RGB, 4:2:0), one per frame, all of one size.
``<key>.masks.bin``
    One record per frame: the length m of the packed labels (uint32, little-endian), m bytes of packed
    labels, then a grey baseline JPEG of the soft matte (255 is the person) up to the end of the record.
    Labels (``Region``, row by row) are runs of equal ones: a byte with the label of each run, then a byte
    with the length of each, 1 to 255. In ``rome-shard/1.1`` and before they were zlib data, which take four
    bytes for every seven of runs, but three to ten times as long to unpack.
``<key>.meta.safetensors``
    Parameters, landmarks and the offsets and checksums of the other two, see ``META_TENSORS``, with
    strings (schema, head model, identity, ...) in the header.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from jaxtyping import UInt8, UInt32

from rome_lightning.types.params import STORED_POSE_SIZE

JPEG_QUALITY = 95
MASK_CODEC = "uint32 length, runs of labels, grey JPEG matte"
MEMBERS = ("frames.bin", "masks.bin", "meta.safetensors")
"""Suffixes of the members of a clip, in the order in which a shard stores them."""

META_TENSORS: dict[str, tuple[str, str]] = {
    "shape": ("F32", "[s] identity coefficients, shared by the frames"),
    "expression": ("F32", "[n, e]"),
    "pose": ("F32", "[n, 18] packed as HeadParams.stored_pose; [n, 15] before the torso was tracked"),
    "camera": ("F32", "[n, 3] of the stored frame"),
    "landmarks": ("F32", "[n, l, 2] pixels of the stored frame"),
    "bbox": ("F32", "[n, 4] left, top, right, bottom of the crop in source pixels"),
    "confidence": ("F32", "[n]"),
    "frame_number": ("I32", "[n] in the source video"),
    "timestamp": ("F64", "[n] seconds in the source video"),
    "valid": ("U8", "[n] 1 if the frame may be used"),
    "frame_offsets": ("U64", "[n + 1] in frames.bin"),
    "frame_crc32": ("U32", "[n]"),
    "mask_offsets": ("U64", "[n + 1] in masks.bin"),
    "mask_crc32": ("U32", "[n]"),
}
"""Tensors of ``meta.safetensors``: safetensors type, and shape and meaning."""

OPTIONAL_META_TENSORS: dict[str, tuple[str, str]] = {
    "offsets": ("F16", "[v, 3] metres, head at rest, shared by the frames; fitted to the person's outline"),
}
"""Tensors that either all clips of a shard have or none."""

_LONGEST_RUN = 255
_KINDS = {**META_TENSORS, **OPTIONAL_META_TENSORS}
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "U8": "|u1", "U32": "<u4", "U64": "<u8"}
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


class CorruptDataError(ValueError):
    """Stored bytes do not match their checksum or do not decode."""


@dataclass(frozen=True)
class Clip:
    """A tracked, cropped clip of one identity, before it is packed."""

    key: str
    """Unique in the dataset: letters, digits, ``_`` and ``-`` only (a dot would split WebDataset keys)."""
    identity: str
    """Person; no identity may be in two splits."""
    images: UInt8[np.ndarray, "n h w 3"]
    regions: UInt8[np.ndarray, "n h w"]
    matte: UInt8[np.ndarray, "n h w"]
    """Soft foreground mask, 255 is the person."""
    arrays: Mapping[str, np.ndarray]
    """The tensors of ``META_TENSORS`` except offsets and checksums, plus any optional ones."""
    header: Mapping[str, str] = field(default_factory=dict)
    """Further strings for the header: dataset, source, source_sha256, tracker, fps, ..."""

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"clip key must be 1 to 80 of A-Z a-z 0-9 _ -, got {self.key!r}")
        if not len(self.images) == len(self.regions) == len(self.matte) > 0:
            counts = (len(self.images), len(self.regions), len(self.matte))
            raise ValueError(f"{self.key}: images, regions and matte must have as many frames, got {counts}")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class PackedClip:
    """The members of a clip and the positions of its frames in them."""

    members: dict[str, bytes]
    """By suffix, in the order of ``MEMBERS``."""
    meta: dict[str, np.ndarray]
    """All of ``META_TENSORS``, and any optional ones."""


def pack_clip(clip: Clip, schema: str) -> PackedClip:
    """Encode a clip; equal clips give equal bytes."""
    frames = [encode_image(image) for image in clip.images]
    masks = [encode_masks(regions, matte) for regions, matte in zip(clip.regions, clip.matte, strict=True)]
    meta = {name: np.asarray(value) for name, value in clip.arrays.items()}
    for name, blobs in (("frame", frames), ("mask", masks)):
        meta[f"{name}_offsets"] = np.concatenate([[0], np.cumsum([len(blob) for blob in blobs])])
        meta[f"{name}_crc32"] = np.array([zlib.crc32(blob) for blob in blobs], dtype=np.uint32)
    missing = set(META_TENSORS) - set(meta)
    if missing:
        raise ValueError(f"{clip.key}: clip lacks {sorted(missing)}")
    for name in ("expression", "pose", "camera", "landmarks", "bbox", "confidence", "frame_number", "valid"):
        if len(meta[name]) != len(clip):
            raise ValueError(f"{clip.key}: {name} has {len(meta[name])} rows for {len(clip)} frames")
    height, width = clip.images.shape[1:3]
    header = {
        **clip.header,
        "schema": schema,
        "clip": clip.key,
        "identity": clip.identity,
        "height": str(height),
        "width": str(width),
        "masks": MASK_CODEC,
    }
    members = {
        "frames.bin": b"".join(frames),
        "masks.bin": b"".join(masks),
        "meta.safetensors": encode_meta(meta, header),
    }
    return PackedClip(members, meta)


def encode_image(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """RGB to baseline JPEG."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"
    )


def decode_image(data: bytes, out: UInt8[np.ndarray, "h w 3"] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Inverse of ``encode_image`` up to JPEG loss.

    Args:
        data: a JPEG file.
        out: contiguous memory for the pixels, of the image's size; new memory if None.

    Raises:
        CorruptDataError: it does not decode, or not to the size of ``out``.
    """
    try:
        image = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
    except ValueError as error:
        raise CorruptDataError(f"frame does not decode: {error}") from error
    return _sized(image, out)


def _sized(decoded: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is not None and decoded.shape[:2] != out.shape[:2]:
        raise CorruptDataError(f"image has size {decoded.shape[:2]}, expected {out.shape[:2]}")
    return decoded


def encode_masks(regions: UInt8[np.ndarray, "h w"], matte: UInt8[np.ndarray, "h w"]) -> bytes:
    """One record of ``masks.bin``."""
    labels = _encode_runs(regions.reshape(-1))
    grey = np.ascontiguousarray(matte)[..., None]
    soft = simplejpeg.encode_jpeg(grey, quality=JPEG_QUALITY, colorspace="GRAY", colorsubsampling="Gray")
    return struct.pack("<I", len(labels)) + labels + soft


def decode_masks(
    data: bytes,
    out_regions: UInt8[np.ndarray, "h w"] | None = None,
    out_matte: UInt8[np.ndarray, "h w"] | None = None,
    zlib_labels: bool = False,
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Regions (exact) and matte (up to JPEG loss) of one record.

    Args:
        data: the record.
        out_regions: contiguous memory for the regions, of the image's size; new memory if None.
        out_matte: the same for the matte.
        zlib_labels: whether the record is of ``rome-shard/1.1`` or before.

    Raises:
        CorruptDataError: it does not decode, or not to the size of ``out_matte``.
    """
    try:
        (length,) = struct.unpack_from("<I", data)
        matte = simplejpeg.decode_jpeg(data[4 + length :], colorspace="GRAY", buffer=out_matte)[..., 0]
        _sized(matte, out_matte)
        packed = data[4 : 4 + length]
        if zlib_labels:
            labels = zlib.decompressobj().decompress(packed, matte.size + 1)
            regions = np.frombuffer(labels, dtype=np.uint8).reshape(matte.shape)
        else:
            regions = _decode_runs(packed).reshape(matte.shape)
    except (ValueError, struct.error, zlib.error) as error:
        raise CorruptDataError(f"masks do not decode: {error}") from error
    if out_regions is not None:
        out_regions[...] = regions
    return regions, matte


def _encode_runs(labels: UInt8[np.ndarray, " p"]) -> bytes:
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] + 1))
    lengths = np.diff(starts, append=len(labels))
    parts = -(-lengths // _LONGEST_RUN)
    split = np.full(parts.sum(), _LONGEST_RUN, dtype=np.uint8)
    split[np.cumsum(parts) - 1] = lengths - _LONGEST_RUN * (parts - 1)
    return np.repeat(labels[starts], parts).tobytes() + split.tobytes()


def _decode_runs(packed: bytes) -> UInt8[np.ndarray, " p"]:
    values, lengths = np.frombuffer(packed, dtype=np.uint8).reshape(2, -1)
    return np.repeat(values, lengths)


def encode_meta(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend only on its content.

    The ``safetensors`` library writes header strings in an order that changes between calls, which
    would change the hash of a shard; its reader reads these files.
    """
    values = {
        name: np.ascontiguousarray(arrays[name], dtype=_DTYPES[kind])
        for name, (kind, _) in _KINDS.items()
        if name in META_TENSORS or name in arrays
    }
    entries: dict[str, object] = {"__metadata__": {key: header[key] for key in sorted(header)}}
    blobs = []
    for name, (start, end) in meta_layout({name: value.shape for name, value in values.items()}).items():
        shape = list(values[name].shape)
        entries[name] = {"dtype": _KINDS[name][0], "shape": shape, "data_offsets": [start, end]}
        blobs.append(values[name].tobytes())
    head = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([struct.pack("<Q", len(head)), head, *blobs])


def meta_layout(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Start and end of each tensor after the header of a ``meta.safetensors``, in file order.

    Putting wide types first keeps every tensor aligned, as in the format's own writer.
    """
    widths = {name: np.dtype(_DTYPES[_KINDS[name][0]]).itemsize for name in shapes}
    places, position = {}, 0
    for name in sorted(shapes, key=lambda name: (-widths[name], name)):
        end = position + widths[name] * math.prod(shapes[name])
        places[name] = (position, end)
        position = end
    return places


def decode_meta(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors (read-only views of ``data``) and header strings of a ``meta.safetensors``."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        entries = json.loads(data[8 : 8 + length])
        header = entries.pop("__metadata__", {})
        body = memoryview(data)[8 + length :]
        arrays = {}
        for name, entry in entries.items():
            start, end = entry["data_offsets"]
            array = np.frombuffer(body[start:end], dtype=_DTYPES[entry["dtype"]])
            arrays[name] = array.reshape(entry["shape"])
    except (KeyError, ValueError, struct.error) as error:
        raise CorruptDataError(f"meta.safetensors does not decode: {error}") from error
    return arrays, header


PARAMETER_TENSORS = ("expression", "pose", "camera", "landmarks")
"""Tensors with a row per frame that a training sample takes from a clip."""


def full_pose(pose: np.ndarray) -> np.ndarray:
    """Poses of any age in today's width: before the torso was tracked, its shift was 0."""
    missing = STORED_POSE_SIZE - pose.shape[1]
    return np.pad(pose, ((0, 0), (0, missing))) if missing else pose


def select_frames(arrays: Mapping[str, np.ndarray], frames: Iterable[int]) -> dict[str, np.ndarray]:
    """Rows of the per-frame tensors for the given frames; ``shape`` is repeated, ``offsets`` are not."""
    index = np.fromiter(frames, dtype=np.int64)
    chosen = {name: arrays[name][index] for name in PARAMETER_TENSORS}
    chosen["pose"] = full_pose(chosen["pose"])
    chosen["shape"] = np.broadcast_to(arrays["shape"], (len(index), len(arrays["shape"])))
    chosen |= {name: arrays[name] for name in OPTIONAL_META_TENSORS if name in arrays}
    return chosen


def parameter_crc32(arrays: Mapping[str, np.ndarray]) -> UInt32[np.ndarray, " n"]:
    """Checksum of each frame's parameters: the clip's ``shape``, then its rows of ``PARAMETER_TENSORS``.

    Between the two come the clip's ``offsets``, if it has them. With it one frame's parameters can be read
    and checked without the rest of the clip.
    """
    shape = zlib.crc32(np.ascontiguousarray(arrays["shape"], dtype="<f4").tobytes())
    if "offsets" in arrays:
        shape = zlib.crc32(np.ascontiguousarray(arrays["offsets"], dtype="<f2").tobytes(), shape)
    rows = [np.ascontiguousarray(arrays[name], dtype="<f4") for name in PARAMETER_TENSORS]
    sums = np.zeros(len(rows[0]), dtype=np.uint32)
    for frame in range(len(sums)):
        value = shape
        for row in rows:
            value = zlib.crc32(row[frame].tobytes(), value)
        sums[frame] = value
    return sums
