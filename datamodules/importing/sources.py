"""Clips of pictures in common layouts; nothing read here can run code."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.prepare.inputs import is_hidden
from rome_lightning.media.pictures import PICTURE_SUFFIXES, decode_image
from rome_lightning.media.tars import tar_members
from rome_lightning.pretrained.restricted_pickle import load_pickle, loads

ROME_CHUNKS = 128
"""Databases of ROME's training set: ``chunks/0_lmdb`` to ``chunks/127_lmdb``."""
_NUMBERED = re.compile(r"^(.*?)[/_.-]?(\d+)$")
_WORDS = re.compile(r"((?:\.[A-Za-z]\w*)+)$")
"""Suffixes of a file: what follows the last dots and starts with a letter, so not a decimal fraction."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

Log = Callable[[str], None]


@dataclass(frozen=True)
class FrameClip:
    """Pictures of one person in temporal order."""

    name: str
    identity: str
    frames: Callable[[], Iterable[bytes]]
    """Reads the encoded pictures."""
    names: tuple[str, ...] = ()
    """Of the pictures, without suffix; only those in folders have names."""

    def size(self) -> tuple[int, int]:
        """Height and width of the first picture as stored."""
        data = next(iter(self.frames()))
        height, width = decode_image(data, f"picture 0 of {self.name}").shape[:2]
        return height, width

    def decode(self, max_frames: int, max_side: int | None = None) -> UInt8[np.ndarray, "n h w 3"]:
        """Upright sRGB of the first pictures.

        Args:
            max_frames: stop after so many.
            max_side: larger pictures are averaged down to this longer side, pixels.

        Raises:
            ValueError: the pictures are damaged or differ in size.
        """
        pictures = []
        for number, data in enumerate(islice(self.frames(), max_frames)):
            picture = decode_image(data, f"picture {number} of {self.name}")
            pictures.append(_reduced(picture, max_side))
        sizes = {picture.shape for picture in pictures}
        if len(sizes) != 1:
            raise ValueError(f"the pictures of {self.name} have {len(sizes)} different sizes")
        return np.stack(pictures)


def _reduced(picture: UInt8[np.ndarray, "h w 3"], max_side: int | None) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width = picture.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return picture
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def natural(name: str) -> list[Any]:
    """Sort key that puts ``frame_10`` after ``frame_9``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def frame_folders(source: Path, picture_suffix: str | None = None, log: Log = print) -> list[FrameClip]:
    """A clip per folder of pictures; the first folder below ``source`` names the person.

    Hidden files and folders are ignored.

    Args:
        source: folder.
        picture_suffix: all that follows a picture's name, such as ``image.png`` beside ``mask.png``; by
            default any of ``PICTURE_SUFFIXES``.
        log: receives what is left out.

    Raises:
        ValueError: there are no pictures, or a folder has several of one name.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}
    left_out: Counter[str] = Counter()
    for path in source.rglob("*"):
        if path.is_dir():
            continue
        found = _WORDS.search(path.name)
        suffix = found.group(1) if found else path.suffix
        if reason := _left_out(path.relative_to(source), suffix, picture_suffix, path.is_file()):
            left_out[reason] += 1
        else:
            folders.setdefault(path.parent, {}).setdefault(path.name.removesuffix(suffix), []).append(path)
    _say(left_out, log)
    if not folders:
        raise ValueError(f"{source} has no pictures ({_wanted(picture_suffix)}) at any depth")

    def reader(paths: list[Path]) -> Callable[[], Iterator[bytes]]:
        return lambda: (path.read_bytes() for path in paths)

    clips = []
    for folder, named in sorted(folders.items()):
        for name, paths in sorted(named.items()):
            _check_one(f"{folder}/{name}", sorted(path.name.removeprefix(name) for path in paths))
        names = sorted(named, key=natural)
        paths = [named[name][0] for name in names]
        relative = folder.relative_to(source)
        name = relative.as_posix() if relative.parts else source.name
        identity = relative.parts[0] if relative.parts else source.name
        clips.append(FrameClip(name, identity, reader(paths), tuple(names)))
    return clips


def webdataset_tars(source: Path, picture_suffix: str | None = None, log: Log = print) -> list[FrameClip]:
    """Tars with a picture per sample; samples whose keys differ in a last number are one clip.

    ``anna/clip3_000017.jpg`` is frame 17 of clip ``anna/clip3`` of ``anna``; without folder the clip is
    the person. The ``webdataset`` library groups members to samples, so that names are split at the first dot
    of the last part; ``./`` and a leading ``/`` do not count, backslashes are slashes. Other members, such as
    ``.json``, are not needed.

    Args:
        source: tar, or folder of tars.
        picture_suffix: which picture of each sample to take, such as ``image.png``; by default the only one.
        log: receives what is left out.

    Raises:
        ValueError: a tar is damaged (WebDataset itself would skip what follows) or compressed, there are no
            pictures, or several in one sample.
    """
    samples: dict[str, _Place] = {}
    left_out: Counter[str] = Counter()
    for sample in _samples(_tars(source), picture_suffix, left_out):
        key = sample.pop("__key__")
        path = sample.pop("__url__")
        if key in samples and samples[key].path != path:
            raise ValueError(
                f"sample {key} is in {samples[key].path} and {path}: two clips would become one; put each "
                "tar's samples into a folder of their own name, or import the tars one by one"
            )
        again = [samples[key].suffix] if key in samples else []
        _check_one(key, sorted(f".{suffix}" for suffix in (*again, *sample)))
        samples[key] = next(iter(sample.values()))
    _say(+left_out, log)
    if not samples:
        raise ValueError(f"{source} has no pictures ({_wanted(picture_suffix)}) in its tars")
    groups: dict[str, list[str]] = {}
    for key in samples:
        groups.setdefault(_clip_of(key), []).append(key)

    def reader(keys: list[str]) -> Callable[[], Iterator[bytes]]:
        return lambda: (samples[key].read() for key in keys)

    return [
        FrameClip(name, name.split("/")[0], reader(sorted(keys, key=natural)))
        for name, keys in sorted(groups.items())
    ]


@dataclass(frozen=True)
class _Place:
    """Position of a tar member's data."""

    suffix: str
    path: Path
    position: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.position)
            return file.read(self.size)


def _samples(
    paths: Iterable[Path], picture_suffix: str | None, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Samples of pictures as WebDataset groups them, with positions instead of data.

    The members are listed here and not by the library's expander, which returns contents in tar order without
    their positions, so that each clip would cost a pass through its tar.
    """
    # Only here, where it is needed: the library imports torch.
    from webdataset.tariterators import base_plus_ext, group_by_keys

    def files() -> Iterator[dict[str, Any]]:
        for path in paths:
            seen: set[str] = set()
            for member in _members(path):
                name = PurePosixPath(member.name.replace("\\", "/").lstrip("/"))
                key, suffix = base_plus_ext(name.as_posix())
                reason = _left_out(name, f".{suffix}" if suffix else "", picture_suffix, member.isfile())
                if reason:
                    left_out[reason] += not member.isdir()
                    continue
                if (fname := f"{key}.{suffix.lower()}") in seen:
                    _check_one(key, [f".{suffix}"] * 2)
                seen.add(fname)
                place = _Place(suffix, path, member.offset_data, member.size)
                yield {"fname": name.as_posix(), "data": place, "__url__": path}
            # The end of a tar: samples do not continue in the next one.
            yield {}

    return group_by_keys(files())


def _left_out(path: PurePath, suffix: str, picture_suffix: str | None, is_file: bool) -> str:
    """Why a file is not a picture to import; empty if it is one."""
    if is_hidden(path):
        return "hidden"
    if not is_file:
        return "not a regular file"
    chosen = picture_suffix and f".{picture_suffix.lstrip('.')}".lower()
    if chosen:
        return "" if suffix.lower() == chosen else suffix or "without suffix"
    last = f".{suffix.rpartition('.')[2]}".lower()
    return "" if last in PICTURE_SUFFIXES else suffix or "without suffix"


def _say(left_out: Counter[str], log: Log) -> None:
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(8))
        log(f"skipped because they are not pictures to import: {counts}")


def _wanted(picture_suffix: str | None) -> str:
    return picture_suffix or ", ".join(PICTURE_SUFFIXES)


def _check_one(name: str, suffixes: list[str]) -> None:
    """Refuse to guess: nobody would notice a mask used as a frame."""
    if len(set(suffixes)) < len(suffixes):
        raise ValueError(
            f"{name} is in its tar {len(suffixes)} times, as after tar --append; unpack the tar, which "
            "keeps the last copy, and import the folder"
        )
    if len(suffixes) > 1:
        raise ValueError(
            f"{name} has {len(suffixes)} pictures ({', '.join(suffixes[:4])}); choose with --picture-suffix, "
            f"such as --picture-suffix {suffixes[0].lstrip('.')}, or rename the files: the suffix starts at "
            "the first dot"
        )


def _tars(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(path for path in source.iterdir() if path.is_file() and not is_hidden(Path(path.name)))
    packed = [path for path in files if path.name.lower().endswith(_COMPRESSED_SUFFIXES)]
    if packed:
        raise ValueError(
            f"{packed[0]} is compressed; unpack it to a plain .tar (pictures do not get smaller)"
        )
    tars = [path for path in files if path.suffix.lower() == ".tar"]
    if not tars:
        raise ValueError(f"{source} has no tar")
    return tars


def _members(path: Path) -> list[tarfile.TarInfo]:
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    with path.open("rb") as file:
        magic = file.read(6)
    for start, kind in _COMPRESSED.items():
        if magic.startswith(start):
            raise ValueError(f"{path} is compressed ({kind}); unpack it to a plain .tar")
    return tar_members(path)


def _clip_of(stem: str) -> str:
    found = _NUMBERED.match(stem)
    return found.group(1) if found and found.group(1) else stem


def gagavatar_lmdb(source: Path) -> list[FrameClip]:
    """GAGAvatar's ``img_lmdb``: encoded pictures under ``VIDEO_NUMBER`` or ``img_VIDEO_NUMBER``.

    Its FLAME parameters (``optim.pkl``) belong to a perspective camera, which shards do not store, so the
    pictures are tracked again.

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

    A sample is a dictionary; its ``image`` is an encoded picture. Keys with a ``/`` start with the person.
    The 3DMM parameters beside it do not belong to one of our head models.

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
