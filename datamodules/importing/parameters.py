"""FLAME parameters of other trackers beside pictures, found by name."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.importing.sources import FrameClip
from rome_lightning.head import HeadModel
from rome_lightning.tracking.foreign import (
    FILE_SUFFIXES,
    FlameTrack,
    apply_track,
    describe,
    join_tracks,
    read_track,
    rows_of,
)
from rome_lightning.tracking.tracked import TrackedClip

_OF_CLIP = re.compile(r"tracked_flame_params(?:_(\d+))?\.npz")
"""VHAP's result, with the number of its last epoch."""


@dataclass(frozen=True)
class ParameterFolder:
    """Parameters of clips, per picture or per clip.

    For picture ``anna/clip/007.jpg``, ``anna/clip/007`` with any of ``FILE_SUFFIXES``, the folder of that
    name (EMOCA), or a file of the same name in it. For clip ``anna/clip``, ``anna/clip`` with one of these
    suffixes, or in this folder VHAP's ``tracked_flame_params_EPOCH.npz`` or ``transforms.json``; a folder
    ``images`` counts as its parent. A single clip needs no folder of its own name.
    """

    kind: str
    root: Path
    """Folder, or the file of the only clip."""
    single: bool
    """Whether there is only one clip."""

    def read(self, clip: FrameClip, count: int) -> FlameTrack:
        """Parameters of the first pictures of a clip, one row each.

        Raises:
            FileNotFoundError: there are none.
            ValueError: they cannot be read, or do not fit the pictures.
        """
        return self._read(clip)[:count]

    def _read(self, clip: FrameClip) -> FlameTrack:
        names = clip.names
        if self.root.is_file():
            if not self.single:
                raise ValueError(f"{self.root} is one file for several clips; pass a folder")
            return rows_of(read_track(self.root, self.kind), names)
        for folder in self._folders(clip):
            whole = _of_clip(folder, self.kind)
            if whole is not None:
                return rows_of(read_track(whole, self.kind), names)
            files = [_of_picture(folder, name, self.kind) for name in names]
            if any(file is not None for file in files):
                return _read_each(folder, names, files, self.kind)
        raise FileNotFoundError(
            f"no parameters of {self.kind} for {clip.name} in {self.root}; they need the pictures' names "
            f"with {', '.join(FILE_SUFFIXES)}"
        )

    def digest(self, clip: FrameClip) -> bytes:
        """Hash of the parameters of all pictures of a clip; errors as for ``read``."""
        track = self.read(clip, len(clip.names))
        digest = hashlib.sha256(track.kind.encode())

        def add(tensor: Tensor) -> Tensor:
            digest.update(tensor.contiguous().numpy().tobytes())
            return tensor

        track.map(add)
        return digest.digest()

    def _folders(self, clip: FrameClip) -> Iterator[Path]:
        # Including its name, which a clip at "." lacks.
        root = Path(os.path.abspath(self.root))
        own = Path(os.path.abspath(root / clip.name))
        yield own
        if own.name == "images":
            yield own.parent
        if self.single:
            yield root
            if root.name == "images":
                yield root.parent


def _of_clip(folder: Path, kind: str) -> Path | None:
    """The file with the parameters of a whole clip."""
    for suffix in _suffixes(kind):
        file = folder.with_name(folder.name + suffix)
        if file.is_file():
            return file
    if kind != "vhap":
        return None
    if (folder / "transforms.json").is_file():
        return folder / "transforms.json"
    files = folder.iterdir() if folder.is_dir() else ()
    matches = [(int(found[1] or 0), file) for file in files if (found := _OF_CLIP.fullmatch(file.name))]
    return max(matches)[1] if matches else None


def _suffixes(kind: str) -> Iterator[str]:
    """Only files of this kind: pictures often have JSON files of other programs beside them."""
    return (suffix for suffix in FILE_SUFFIXES if suffix != ".json" or kind == "vhap")


def _of_picture(folder: Path, name: str, kind: str) -> Path | None:
    """The file, or EMOCA's folder, with the parameters of one picture."""
    for place in (folder, folder / name):
        for suffix in _suffixes(kind):
            if (place / f"{name}{suffix}").is_file():
                return place / f"{name}{suffix}"
    return folder / name if (folder / name / "exp.npy").is_file() else None


def _read_each(folder: Path, names: tuple[str, ...], files: list[Path | None], kind: str) -> FlameTrack:
    """The parameters of single pictures as one track."""
    tracks = []
    for name, file in zip(names, files, strict=True):
        if file is None:
            lacking = sum(file is None for file in files)
            raise ValueError(f"{folder} has no parameters for {name} ({lacking} of {len(names)} pictures)")
        track = read_track(file, kind)
        if len(track) != 1:
            raise ValueError(f"{file} has parameters of {len(track)} pictures, wanted those of {name}")
        tracks.append(track)
    return join_tracks(folder, tracks)


def with_params(
    head: HeadModel,
    track: FlameTrack,
    picture_size: tuple[int, int],
    told: list[str],
    frames: np.ndarray,
    clip: TrackedClip,
) -> TrackedClip:
    """``apply_track`` for some frames of a clip, whose pictures may have been downscaled on reading.

    Args:
        head: FLAME.
        track: of all frames.
        picture_size: height and width of the images that the other tracker saw.
        told: receives the findings, in words.
        frames: numbers of the frames.
        clip: of these frames.
    """
    part = track[torch.from_numpy(frames)]
    applied = apply_track(head, clip, part, track.shape.mean(0), picture_size)
    shown = applied.clip.residual[~applied.clip.residual.isnan()]
    told += describe(track, applied)
    if len(shown):
        told.append(
            f"landmarks of {track.kind}'s head are {float(shown.median()):.1%} of the interocular distance "
            "away from those in the picture"
        )
    return applied.clip
