"""Clips of pictures in the layouts that people keep them in; nothing read here may run code."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from rome_lightning.pretrained.restricted_pickle import load_pickle, loads

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
ROME_CHUNKS = 128
"""Databases of ROME's training set: ``chunks/0_lmdb`` to ``chunks/127_lmdb``."""
_NUMBERED = re.compile(r"^(.*?)[/_.-]?(\d+)$")


@dataclass(frozen=True)
class FrameClip:
    """Pictures of one person in the order of time."""

    name: str
    identity: str
    frames: Callable[[], Iterable[bytes]]
    """Reads the encoded pictures."""

    def decode(self, max_frames: int) -> UInt8[np.ndarray, "n h w 3"]:
        """RGB pixels of the first pictures.

        Raises:
            ValueError: the pictures are damaged or differ in size.
        """
        pictures = []
        for number, data in enumerate(islice(self.frames(), max_frames)):
            try:
                with Image.open(io.BytesIO(data)) as picture:
                    pictures.append(np.asarray(picture.convert("RGB")))
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"picture {number} of {self.name} does not decode: {error}") from error
        sizes = {picture.shape for picture in pictures}
        if len(sizes) != 1:
            raise ValueError(f"the pictures of {self.name} have {len(sizes)} different sizes")
        return np.stack(pictures)


def natural(name: str) -> list[Any]:
    """Sort key that puts ``frame_10`` after ``frame_9``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def frame_folders(source: Path) -> list[FrameClip]:
    """A clip per folder of pictures; the first folder below ``source`` names the person.

    Raises:
        ValueError: there are no pictures.
    """
    folders: dict[Path, list[Path]] = {}
    for path in source.rglob("*"):
        if path.suffix.lower() in PICTURES:
            folders.setdefault(path.parent, []).append(path)
    if not folders:
        raise ValueError(f"{source} has no pictures ({', '.join(PICTURES)}) at any depth")

    def reader(paths: list[Path]) -> Callable[[], Iterator[bytes]]:
        return lambda: (path.read_bytes() for path in paths)

    clips = []
    for folder, paths in sorted(folders.items()):
        relative = folder.relative_to(source)
        name = relative.as_posix() if relative.parts else source.name
        identity = relative.parts[0] if relative.parts else source.name
        clips.append(FrameClip(name, identity, reader(sorted(paths, key=lambda path: natural(path.name)))))
    return clips


def webdataset_tars(source: Path) -> list[FrameClip]:
    """Tars with a picture per sample; samples whose keys differ in a last number are one clip.

    ``anna/clip3_000017.jpg`` is frame 17 of clip ``anna/clip3`` of ``anna``; without folder the clip is
    the person. Other members, such as ``.json``, are not needed.

    Raises:
        ValueError: a tar is damaged (WebDataset itself would skip what follows), or has no pictures.
    """
    tars = sorted(source.glob("*.tar")) if source.is_dir() else [source]
    if not tars:
        raise ValueError(f"{source} has no tar")
    groups: dict[str, list[tuple[str, Path, int, int]]] = {}
    for path in tars:
        for member in _members(path):
            stem, dot, suffix = member.name.partition(".")
            if dot and f".{suffix.lower().rpartition('.')[2]}" in PICTURES:
                place = (stem, path, member.offset_data, member.size)
                groups.setdefault(_clip_of(stem), []).append(place)
    if not groups:
        raise ValueError(f"{source} has no pictures ({', '.join(PICTURES)}) in its tars")

    def reader(places: list[tuple[str, Path, int, int]]) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            for _, path, position, size in places:
                with path.open("rb") as file:
                    file.seek(position)
                    yield file.read(size)

        return read

    return [
        FrameClip(name, name.split("/")[0], reader(sorted(places, key=lambda place: natural(place[0]))))
        for name, places in sorted(groups.items())
    ]


def _members(path: Path) -> list[tarfile.TarInfo]:
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            members = [member for member in tar.getmembers() if member.isfile()]
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a tar or is damaged: {error}") from error
    if any(member.offset_data + member.size > size for member in members):
        raise ValueError(f"{path} is truncated: it ends within {members[-1].name}")
    return members


def _clip_of(stem: str) -> str:
    found = _NUMBERED.match(stem)
    return found.group(1) if found and found.group(1) else stem


def gagavatar_lmdb(source: Path) -> list[FrameClip]:
    """GAGAvatar's ``img_lmdb``: encoded pictures under ``VIDEO_NUMBER`` or ``img_VIDEO_NUMBER``.

    Its FLAME parameters (``optim.pkl``) belong to a camera with perspective, which shards do not store, so
    that the pictures are tracked anew.

    Source: ``core/libs/utils_lmdb.py`` and ``core/data/loader_track.py`` of xg-chu/GAGAvatar.
    """
    path = source / "img_lmdb" if (source / "img_lmdb").is_dir() else source
    with _open_lmdb(path) as database, database.begin() as read:
        keys = [bytes(key).decode() for key in read.cursor().iternext(values=False)]
    groups: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("_")
        groups.setdefault(parts[1] if parts[0] == "img" and len(parts) > 2 else parts[0], []).append(key)
    return [
        FrameClip(video, video, _lmdb_reader(path, sorted(group, key=natural), lambda value: value))
        for video, group in sorted(groups.items())
    ]


def rome_lmdb(source: Path) -> list[FrameClip]:
    """ROME's training set: ``lists/*_keys.pkl`` with (chunk, keys) per clip, pickled samples in ``chunks``.

    A sample is a dictionary; its ``image`` is an encoded picture. Keys start with the person where they
    have a ``/``. The 3DMM parameters beside it are not those of a head model of ours.

    Source: ``src/dataset/voxceleb2hq_pairs.py`` of SamsungLabs/rome.
    """
    lists = sorted((source / "lists").glob("*_keys.pkl"))
    if not lists:
        raise FileNotFoundError(f"{source / 'lists'} has no *_keys.pkl, which says what the clips are")
    clips: dict[str, FrameClip] = {}
    for path in lists:
        for chunk, keys in load_pickle(path):
            if not 0 <= int(chunk) < ROME_CHUNKS:
                raise ValueError(f"{path} names chunk {chunk}; there are {ROME_CHUNKS}")
            keys = sorted(map(str, keys), key=natural)
            name = _clip_of(keys[0])
            database = source / "chunks" / f"{int(chunk)}_lmdb"
            clips[name] = FrameClip(name, name.split("/")[0], _lmdb_reader(database, keys, _rome_picture))
    return [clips[name] for name in sorted(clips)]


def _rome_picture(value: bytes) -> bytes:
    sample = loads(value)
    if not isinstance(sample, dict) or not isinstance(sample.get("image"), bytes):
        raise ValueError("a sample of the database has no picture under 'image'")
    return sample["image"]


def _open_lmdb(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError("reading LMDB needs the package lmdb: pip install lmdb") from error
    if not (path / "data.mdb").exists():
        raise FileNotFoundError(f"no LMDB at {path} (its data.mdb is missing)")
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False)


def _lmdb_reader(
    path: Path, keys: list[str], unpack: Callable[[bytes], bytes]
) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        with _open_lmdb(path) as database, database.begin() as transaction:
            for key in keys:
                value = transaction.get(key.encode())
                if value is None:
                    raise ValueError(f"{path} has no {key!r}")
                yield unpack(bytes(value))

    return read
