"""Shards of schema ``rome-shard/1``: deterministic tars with a random-access index.

A shard is an uncompressed USTAR archive, written by WebDataset's own ``TarWriter``, that any WebDataset
reader can stream: the three members of ``datamodules.codec`` per clip, adjacent, clips sorted by key, every
time stamp and owner 0. Beside
``NAME.tar`` lie

- ``NAME.frames.npy`` and ``NAME.clips.npy``: one row of ``FRAME_ROW`` per frame, one of ``CLIP_ROW`` per
  clip, read as memory maps, so that a frame is one ``pread`` away;
- ``NAME.params.npy``: a checksum of each frame's parameters, so that they can be read alone;
- ``NAME.json``: what the shard was made from and its hash. It is written last: a shard is finished
  when its JSON names the same spec and the tar has the size it states.

Files are written under a temporary name, synchronised and renamed, so a killed process leaves no
half shard under a final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from datamodules.codec import (
    MEMBERS,
    OPTIONAL_META_TENSORS,
    Clip,
    CorruptDataError,
    PackedClip,
    decode_meta,
    pack_clip,
    parameter_crc32,
)
from rome_lightning.media.atomic import commit, temporary_for, write_atomic
from rome_lightning.media.digest import note_missing, seal
from rome_lightning.media.tars import open_tar

if TYPE_CHECKING:
    from webdataset import TarWriter

SCHEMA = "rome-shard/1.2"
"""Readers accept the same major number, and read all earlier minor ones; a later minor number only adds.

1.2: labels in ``masks.bin`` are runs, before they were zlib data (the exception to adding: readers of 1.1
take them for damaged); poses have 18 numbers, 15 in earlier files, which are padded. 1.1: region labels have
``Region.OUTSIDE``, formerly background; ``NAME.params.npy`` is new.
"""

WITHOUT_PARAMS = "rome-shard/1"
"""Shards of this version have no ``NAME.params.npy``."""

WITH_ZLIB_LABELS = (WITHOUT_PARAMS, "rome-shard/1.1")
"""In shards of these versions the labels of a mask record are zlib data."""

FRAME_ROW = np.dtype(
    [
        ("position", "<u8"),
        ("mask_position", "<u8"),
        ("length", "<u4"),
        ("crc32", "<u4"),
        ("mask_length", "<u4"),
        ("mask_crc32", "<u4"),
        ("clip", "<u4"),
        ("valid", "<u4"),
    ]
)
"""A frame: byte ranges in the tar, their checksums, row of the clip, 1 if the frame may be used."""

CLIP_ROW = np.dtype(
    [
        ("key", "S80"),
        ("meta_position", "<u8"),
        ("meta_length", "<u4"),
        ("meta_crc32", "<u4"),
        ("first_frame", "<u4"),
        ("num_frames", "<u4"),
        ("identity", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""A clip: name, byte range of its meta in the tar, its frame rows, index in the JSON's ``identities``.

``reserved`` is one more than the clip's typical frame (``typical_frame``), 0 in files of earlier versions.
"""


def typical_frame(expression: Float[np.ndarray, "n e"], frames: Sequence[int]) -> int:
    """The frame whose expression is nearest to the median of the given ones, in L1.

    Args:
        expression: of each of the frames.
        frames: their indices in the clip.
    """
    distance = np.abs(expression - np.median(expression, axis=0)).sum(axis=1)
    return int(frames[int(distance.argmin())])


def check_schema(schema: str, path: Path) -> None:
    """Refuse data of another major version.

    Raises:
        ValueError: the data is of another schema.
    """
    name, _, version = schema.partition("/")
    wanted_name, _, wanted_version = SCHEMA.partition("/")
    if name != wanted_name or version.partition(".")[0] != wanted_version.partition(".")[0]:
        raise ValueError(f"{path}: this version reads {SCHEMA}, the data has {schema!r}; prepare it again")


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_of(value: Any) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


@dataclass(frozen=True)
class ShardInfo:
    """Content of a shard's JSON."""

    name: str
    schema: str
    spec: dict[str, Any]
    """What the shard was made from: inputs with their hashes, configuration."""
    spec_hash: str
    bytes: int
    sha256: str
    """Of the tar; empty if no clip could be made and there is no tar."""
    clips: int
    frames: int
    identities: list[str]
    failed: list[dict[str, str]] = field(default_factory=list)
    """Inputs that gave no clip: ``{"input": ..., "reason": ...}``."""
    versions: dict[str, str] = field(default_factory=dict)
    """Tools that made the shard; not part of the spec."""
    counts: dict[str, int] = field(default_factory=dict)
    """Frames by reason of rejection, and whatever else the maker counted."""

    @classmethod
    def load(cls, path: Path) -> ShardInfo:
        """Read ``NAME.json``.

        Raises:
            ValueError: it is damaged, edited, or of another schema.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{path} does not describe a shard")
        check_schema(content.get("schema", ""), path)
        stated = content.pop("hash", None)
        if stated is None:
            note_missing(path, "so an edited value is not found")
        elif stated != sha256_of(content):
            raise ValueError(f"{path} was edited or damaged: its content does not match its hash")
        known = cls.__dataclass_fields__
        return cls(**{key: value for key, value in content.items() if key in known})


def finished_shard(folder: Path, name: str, spec: Mapping[str, Any]) -> ShardInfo | None:
    """The shard's information if it was completely written from exactly this spec, else None."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        info = ShardInfo.load(path)
    except (ValueError, TypeError):
        return None
    tar = folder / f"{name}.tar"
    size = tar.stat().st_size if tar.exists() else 0
    return info if info.spec_hash == sha256_of(spec) and size == info.bytes else None


def _sealed(rows: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return seal(buffer.getvalue())


def without_typical(content: bytes) -> bytes:
    """``NAME.clips.npy`` as versions wrote it that did not know typical frames."""
    rows = np.load(io.BytesIO(content))
    rows["reserved"] = 0
    return _sealed(rows)


class ShardIndex:
    """Positions of the clips and frames of a shard, collected clip by clip."""

    def __init__(self) -> None:
        self.clips: list[tuple[Any, ...]] = []
        self.identities: list[str] = []
        self.num_frames = 0
        self._optional: set[str] | None = None
        self._frames: list[np.ndarray] = []
        self._checks: list[np.ndarray] = []

    def add(
        self,
        key: str,
        identity: str,
        meta: Mapping[str, np.ndarray],
        meta_bytes: bytes,
        start: Mapping[str, int],
    ) -> None:
        """Append a clip.

        Args:
            key: of the clip.
            identity: of its person.
            meta: tensors of ``meta.safetensors``.
            meta_bytes: the member itself.
            start: position in the tar of each member's data, by suffix.

        Raises:
            ValueError: some clips of the shard have an optional tensor that others lack.
        """
        optional = set(meta) & set(OPTIONAL_META_TENSORS)
        if self._optional not in (None, optional):
            # Readers find parameters by a layout that the clips of a shard share.
            raise ValueError(
                f"{key}: all clips of a shard have offsets or none; prepare them with one fit_outline"
            )
        self._optional = optional
        rows = np.zeros(len(meta["valid"]), dtype=FRAME_ROW)
        for prefix, name, member in (("", "frame", "frames.bin"), ("mask_", "mask", "masks.bin")):
            offsets = np.asarray(meta[f"{name}_offsets"], dtype=np.uint64)
            rows[f"{prefix}position"] = offsets[:-1] + np.uint64(start[member])
            rows[f"{prefix}length"] = np.diff(offsets)
            rows[f"{prefix}crc32"] = meta[f"{name}_crc32"]
        rows["clip"] = len(self.clips)
        rows["valid"] = meta["valid"]
        if identity not in self.identities:
            self.identities.append(identity)
        place = (start["meta.safetensors"], len(meta_bytes), zlib.crc32(meta_bytes))
        person = self.identities.index(identity)
        usable = np.flatnonzero(meta["valid"])
        typical = (
            typical_frame(np.asarray(meta["expression"])[usable], usable.tolist()) + 1 if len(usable) else 0
        )
        self.clips.append((key.encode(), *place, self.num_frames, len(rows), person, typical))
        self.num_frames += len(rows)
        self._frames.append(rows)
        self._checks.append(parameter_crc32(meta))

    def files(self) -> dict[str, bytes]:
        """Content of the index files, each with its digest at the end.

        Returns:
            By what stands between the shard's name and ``.npy``.
        """
        contents = {}
        for kind, rows in (
            ("frames", np.concatenate(self._frames)),
            ("clips", np.array(self.clips, dtype=CLIP_ROW)),
            ("params", np.concatenate(self._checks)),
        ):
            contents[kind] = _sealed(rows)
        return contents

    def write(self, folder: Path, name: str) -> None:
        """Write the index files of a shard."""
        for kind, content in self.files().items():
            write_atomic(folder / f"{name}.{kind}.npy", content)

    @classmethod
    def of_tar(cls, path: Path) -> ShardIndex:
        """The index of an existing tar.

        Raises:
            CorruptDataError: it is damaged where its clips begin or end.
        """
        index = cls()
        try:
            with open_tar(path) as tar:
                members = iter(tar)
                for first in members:
                    clip = [first, *itertools.islice(members, len(MEMBERS) - 1)]
                    index._add_members(tar, clip)
        except (tarfile.TarError, KeyError) as error:
            raise CorruptDataError(f"{path.name}: the archive is damaged: {error}") from error
        return index

    def _add_members(self, tar: tarfile.TarFile, clip: Sequence[tarfile.TarInfo]) -> None:
        key = clip[0].name.partition(".")[0]
        names = [member.name for member in clip]
        if names != [f"{key}.{suffix}" for suffix in MEMBERS]:
            raise CorruptDataError(f"wanted the members of a clip, found {', '.join(names)}")
        file = tar.extractfile(clip[-1])
        assert file is not None
        data = file.read()
        meta, header = decode_meta(data)
        start = {suffix: member.offset_data for suffix, member in zip(MEMBERS, clip, strict=True)}
        self.add(key, header["identity"], meta, data, start)


class ShardWriter:
    """Write one shard clip by clip; a context manager that leaves no files after an error.

    Args:
        folder: created if needed.
        name: file name without suffix.
        spec: what the shard is made from, as JSON values; its hash identifies the shard.
    """

    def __init__(self, folder: Path, name: str, spec: Mapping[str, Any]) -> None:
        self.folder, self.name, self.spec = folder, name, dict(spec)
        self._path = folder / f"{name}.tar"
        self._temporary = self._path
        self._tar: TarWriter | None = None
        self._file: Any = None
        self._index = ShardIndex()
        self._last_key = ""

    def __enter__(self) -> ShardWriter:
        # Imported here because the library imports torch, which readers of shards start without.
        from webdataset import TarWriter

        self._temporary = temporary_for(self._path)
        self._file = self._temporary.open("w+b")
        # Version 1.0.2 ignores ``format`` and writes PAX headers, whose bytes are those of USTAR for short
        # ASCII names and whole seconds; ours are (see ``_write``).
        self._tar = TarWriter(
            self._file, user="", group="", mode=0o644, mtime=0, encoder=False, format=tarfile.USTAR_FORMAT
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the file is removed, so it does not matter if a full disk prevents writing its end.
        with contextlib.suppress(OSError):
            if self._tar is not None:
                self._tar.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, clip: Clip) -> None:
        """Append a clip; keys must come in ascending order, which makes the bytes deterministic."""
        self.add_packed(clip.key, clip.identity, pack_clip(clip, SCHEMA))

    def add_packed(self, key: str, identity: str, packed: PackedClip) -> None:
        """Append an already encoded clip, as in a part of this shard."""
        assert self._tar is not None, "use ShardWriter as a context manager"
        if key <= self._last_key:
            raise ValueError(f"clips must be added in ascending order: {key!r} after {self._last_key!r}")
        self._last_key = key
        start = self._write(key, packed.members)
        self._index.add(key, identity, packed.meta, packed.members["meta.safetensors"], start)

    def _write(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Append the members of a clip; returns the position in the tar of each member's data, by suffix."""
        assert self._tar is not None
        start, position = {}, self._tar.tarstream.offset
        # The writer sorts suffixes, and so are ``MEMBERS``.
        self._tar.write({"__key__": key, **members})
        for suffix in MEMBERS:
            start[suffix] = position + tarfile.BLOCKSIZE
            blocks = -(-len(members[suffix]) // tarfile.BLOCKSIZE)
            position = start[suffix] + blocks * tarfile.BLOCKSIZE
        assert position == self._tar.tarstream.offset, "one header block per member"
        return start

    def finish(
        self,
        failed: Sequence[Mapping[str, str]] = (),
        versions: Mapping[str, str] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> ShardInfo:
        """Write all files under their final names and return the shard's information.

        A shard without clips gets only its JSON.
        """
        assert self._tar is not None
        size, digest = 0, ""
        if self._index.clips:
            self._tar.close()
            self._file.flush()
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256").hexdigest()
            size = os.fstat(self._file.fileno()).st_size
            self._index.write(self.folder, self.name)
            commit(self._temporary, self._path)
        info = ShardInfo(
            name=self.name,
            schema=SCHEMA,
            spec=self.spec,
            spec_hash=sha256_of(self.spec),
            bytes=size,
            sha256=digest,
            clips=len(self._index.clips),
            frames=self._index.num_frames,
            identities=self._index.identities,
            failed=[dict(item) for item in failed],
            versions=dict(versions or {}),
            counts=dict(counts or {}),
        )
        content = asdict(info)
        content["hash"] = sha256_of(content)
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
        write_atomic(self.folder / f"{self.name}.json", text.encode())
        return info
