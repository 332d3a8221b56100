"""Inputs of a dataset: files, folders and id lists, the people in them, and their splits."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath

from datamodules.prepare.config import PrepareConfig
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.digest import file_sha256

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif")
LIST_SUFFIXES = (".txt", ".tsv", ".csv")
_HASHES = ".inputs.json"
_HASHING_THREADS = 8
_SAVE_HASHES_S = 60.0
"""A run that is killed while hashing loses at most this many seconds of work."""
_ENOUGH_PEOPLE = 6
"""With at least this many identities, some are kept for validation by default."""
_LEAST_VAL_PEOPLE = 2
_VAL_RATIO = 0.1
_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
"""Folders with thumbnails and partial copies that operating systems put beside the user's files."""


@dataclass(frozen=True)
class VideoFile:
    """A video or photograph as it was given."""

    path: Path
    name: str
    """Path below the given folder, or the file's name; with ``/`` on every system."""
    identity: str | None = None
    """Person, if an id list or a folder names one."""

    @property
    def stem(self) -> str:
        """``name`` without suffix."""
        return self.name.removesuffix(self.path.suffix)

    @property
    def is_photo(self) -> bool:
        """Whether it is one picture."""
        return self.path.suffix.lower() in PHOTO_SUFFIXES


@dataclass(frozen=True)
class VideoInput:
    """A video, or all photographs of one person, and what the dataset calls it."""

    path: Path
    """Of the video or the first photograph."""
    key: str
    """Letters, digits and ``_``; clips append ``-000`` and so on, which keeps them in the videos' order."""
    identity: str
    sha256: str
    """sha256 of the file; of several photographs, the hash of their hashes."""
    name: str
    """See ``VideoFile.name``; several photographs have the name of the first and their number."""
    photos: tuple[Path, ...] = ()
    """The photographs; empty for a video."""
    photo_hashes: tuple[str, ...] = ()
    """sha256 of each photograph if there are several."""


def expand_inputs(
    paths: Sequence[Path], root: Path | None = None, identity_from: str = "video"
) -> tuple[list[VideoFile], list[dict[str, str]]]:
    """Expand inputs: folders become their content at any depth, and lists the files that they name.

    Pictures in a folder with videos are skipped: they are covers and previews.

    Args:
        paths: videos, photographs, folders and lists (``LIST_SUFFIXES``).
        root: folder that the lines of lists are relative to; by default that of the list.
        identity_from: ``folder`` names the person after the first folder below the given one.

    Returns:
        Videos and photographs, and the lines of lists that name none, as ``{"input": ..., "reason": ...}``.

    Raises:
        FileNotFoundError: a path does not exist, or a folder or list has neither video nor photograph.
    """
    videos: list[VideoFile] = []
    missing: list[dict[str, str]] = []
    for path in paths:
        if path.is_dir():
            found = list(_in_folder(path, path, identity_from))
            if not found:
                known = ", ".join((*VIDEO_SUFFIXES, *PHOTO_SUFFIXES))
                raise FileNotFoundError(f"folder {path} has no video and no photograph ({known})")
            videos += found
        elif not path.exists():
            raise FileNotFoundError(f"no video at {path}")
        elif path.suffix.lower() in LIST_SUFFIXES:
            found, lost = _read_list(path, root or path.parent, identity_from)
            if not found:
                raise FileNotFoundError(
                    f"list {path} names no video below {root or path.parent}; set --root to the folder "
                    "that its lines are relative to"
                )
            videos += found
            missing += lost
        else:
            videos.append(VideoFile(path, path.name))
    return videos, missing


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a given folder is hidden: not the user's, but the system's or a program's."""
    return any(part.startswith(".") or part in _SYSTEM_FOLDERS for part in path.parts)


def _in_folder(
    folder: Path, top: Path, identity_from: str, identity: str | None = None
) -> Iterator[VideoFile]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_hidden(path.relative_to(folder))
    ]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    for path in videos or [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]:
        below = path.relative_to(top)
        person = below.parts[0] if identity_from == "folder" and len(below.parts) > 1 else None
        yield VideoFile(path, below.as_posix(), identity or person)


def _read_list(path: Path, root: Path, identity_from: str) -> tuple[list[VideoFile], list[dict[str, str]]]:
    """Videos of a list: a path or id per line and, after a tab (in ``.csv`` a comma), the person.

    A first line ``path, identity`` is a heading.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"list {path} is not UTF-8 text: {error}") from error
    rows = csv.reader(lines, delimiter="," if path.suffix.lower() == ".csv" else "\t")
    videos: list[VideoFile] = []
    missing: list[dict[str, str]] = []
    listing = _Listing()
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#") or cells[:2] == ["path", "identity"]:
            continue
        entry, identity = cells[0], (cells[1] if len(cells) > 1 else "") or None
        found = _named(entry, root, identity_from, identity, listing)
        videos += found
        if not found:
            missing.append({"input": entry, "reason": f"no video of this name below {root.name or root}"})
    return videos, missing


class _Listing:
    """Files by the part of their names before a dot; each folder is read once, however many ids it has."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def beginning_with(self, path: Path) -> list[Path]:
        """The files called ``path`` and a suffix, sorted."""
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = self._read(folder)
        return [folder / name for name in sorted(self._folders[folder].get(path.name, []))]

    @staticmethod
    def _read(folder: Path) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in os.listdir(folder) if folder.is_dir() else ():
            for dot in re.finditer(r"\.", name):
                names.setdefault(name[: dot.start()], []).append(name)
        return names


def _named(
    entry: str, root: Path, identity_from: str, identity: str | None, listing: _Listing
) -> list[VideoFile]:
    """Videos that a line of a list names: a file, all of a folder (one person), or an id without suffix."""
    path = root / entry
    if path.is_dir():
        return list(_in_folder(path, root, identity_from, identity or Path(entry).as_posix()))
    candidates = [path] if path.is_file() else listing.beginning_with(path)
    # A picture with a video's name is its preview.
    found = [p for p in candidates if p == path or p.suffix.lower() in VIDEO_SUFFIXES][:1]
    found = found or [p for p in candidates if p.suffix.lower() in PHOTO_SUFFIXES][:1]
    if not found:
        return []
    name = Path(entry).name if Path(entry).is_absolute() else found[0].relative_to(root).as_posix()
    parts = Path(name).parts
    person = parts[0] if identity_from == "folder" and len(parts) > 1 else None
    return [VideoFile(found[0], name, identity or person)]


def name_inputs(
    videos: Sequence[VideoFile], identities: Mapping[str, str], hashes: Mapping[Path, str]
) -> tuple[list[VideoInput], list[dict[str, str]]]:
    """Give each video a key and an identity; the photographs of one person become one input.

    Args:
        videos: files; duplicate content is used once.
        identities: person by name without suffix, with or without folders; wins over the video's own.
            Any other file is a separate person, named after the file.
        hashes: sha256 by path.

    Returns:
        Inputs sorted by key, and the files skipped as duplicates.

    Raises:
        ValueError: ``identities`` names a missing video.
    """
    unknown = set(identities) - {name for video in videos for name in (video.stem, video.path.stem)}
    if unknown:
        raise ValueError(f"identities names videos that were not given: {few(unknown)}")
    by_hash: dict[str, VideoFile] = {}
    copies = []
    for video in videos:
        first = by_hash.setdefault(hashes[video.path], video)
        if first is not video and first.path.resolve() != video.path.resolve():
            copies.append({"input": video.name, "reason": f"same content as {first.name}, which is used"})
    keys = Counter(_key(video.stem) for video in by_hash.values())
    stems = Counter(video.stem for video in by_hash.values())
    inputs: list[VideoInput] = []
    albums: dict[str, list[tuple[VideoFile, str]]] = {}
    for digest, video in by_hash.items():
        key = _key(video.stem)
        # Two videos with one name in different folders are distinguished by their content.
        key = key if keys[key] == 1 else f"{key}_{digest[:8]}"
        own = video.identity or (video.stem if stems[video.stem] == 1 else key)
        identity = identities.get(video.stem) or identities.get(video.path.stem) or own
        if video.is_photo:
            albums.setdefault(identity, []).append((video, digest))
        else:
            inputs.append(VideoInput(video.path, key, identity, digest, video.name))
    taken = {item.key for item in inputs}
    for identity, album in albums.items():
        inputs.append(_album(identity, album, taken))
        taken.add(inputs[-1].key)
    return sorted(inputs, key=lambda item: item.key), copies


def _album(identity: str, album: Sequence[tuple[VideoFile, str]], taken: set[str]) -> VideoInput:
    """All photographs of a person as one input, sorted by name."""
    album = sorted(album, key=lambda item: item[0].name)
    paths, hashes = tuple(video.path for video, _ in album), tuple(digest for _, digest in album)
    several = len(album) > 1
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest() if several else hashes[0]
    name = album[0][0].name + (f" and {len(album) - 1} more" if several else "")
    key = _key(identity)
    key = f"{key}_{digest[:8]}" if key in taken else key
    return VideoInput(paths[0], key, identity, digest, name, paths, hashes if several else ())


def hash_inputs(videos: Sequence[VideoFile], output: Path) -> tuple[dict[Path, str], list[dict[str, str]]]:
    """sha256 of every readable video, cached in ``output`` by size and modification time.

    Returns:
        Hash by path, and the unreadable videos.
    """
    memory = output / _HASHES
    try:
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    fresh: dict[str, str] = {}
    hashes: dict[Path, str] = {}
    failed = []
    saved_s = time.monotonic()
    # Reading waits for the disk, and hashing releases the GIL.
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        for video, (place, digest, reason) in zip(
            videos, pool.map(lambda video: _hashed(video, known), videos), strict=True
        ):
            if reason:
                failed.append({"input": video.name, "reason": f"cannot be read: {reason}"})
                continue
            fresh[place] = hashes[video.path] = digest
            if time.monotonic() - saved_s >= _SAVE_HASHES_S:
                _save_hashes({**known, **fresh}, memory)
                saved_s = time.monotonic()
    if fresh != known:
        _save_hashes(fresh, memory)
    return hashes, failed


def _hashed(video: VideoFile, known: Mapping[str, str]) -> tuple[str, str, str]:
    """Where a file is and in which state, its sha256, and why it cannot be read."""
    try:
        state = video.path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a regular file")
        if state.st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        place = f"{video.path.resolve()} {state.st_size} {state.st_mtime_ns}"
        return place, known.get(place) or file_sha256(video.path), ""
    except (OSError, ValueError) as error:
        return "", "", error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _save_hashes(hashes: Mapping[str, str], path: Path) -> None:
    write_atomic(path, json.dumps(hashes, indent=0, sort_keys=True).encode())


def splits_of(people: Iterable[str], config: PrepareConfig) -> dict[str, str]:
    """Split of each identity: as listed, or else by a hash of its name; see ``PrepareConfig.val_ratio``."""
    places = {person: int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) / 2**32 for person in people}
    enough = len(places) >= _ENOUGH_PEOPLE and not config.val_identities
    val_ratio = (_VAL_RATIO if enough else 0.0) if config.val_ratio is None else config.val_ratio
    splits = {}
    for person, place in places.items():
        listed = "test" if person in config.test_identities else "val" * (person in config.val_identities)
        by_hash = "test" if place < config.test_ratio else "train"
        if config.test_ratio <= place < config.test_ratio + val_ratio:
            by_hash = "val"
        splits[person] = listed or by_hash
    if config.val_ratio is None and enough:
        # A single person cannot be driven by another.
        free = sorted((person for person in places if splits[person] == "train"), key=places.__getitem__)
        lacking = _LEAST_VAL_PEOPLE - sum(split == "val" for split in splits.values())
        splits |= dict.fromkeys(free[: max(lacking, 0)], "val")
    return splits


def few(names: set[str]) -> str:
    """The first of many names, for messages."""
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _key(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", stem)[:64] or "video"
