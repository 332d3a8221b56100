"""The file that the single-view face reconstruction benchmark of NeRSemble takes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from rome_lightning.evaluation.geometry import in_millimetres
from rome_lightning.evaluation.systems import AvatarSystem
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.meshes import ply_bytes
from rome_lightning.media.pictures import read_image
from rome_lightning.tracking import Tracker
from rome_lightning.types import Frames
from rome_lightning.types.params import at_rest

FILE = "svfr_submission.zip"


def benchmark_images(folder: Path) -> list[tuple[str, str, Path]]:
    """Participant, key and path of each image below ``PARTICIPANT/``.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [
        (path.relative_to(folder).parts[0], path.stem, path)
        for suffix in ("png", "jpg")
        for path in sorted(folder.glob(f"*/**/*.{suffix}"))
    ]
    if not found:
        raise FileNotFoundError(
            f"{folder} has no images of the benchmark; wanted PARTICIPANT/.../IMAGE_KEY.png"
        )
    return sorted(found)


def photo_tracker(system: AvatarSystem) -> Callable[[Path], Frames]:
    """Reads and tracks photographs for a model; refuses those that cannot be used."""
    tracker = Tracker(system.model.head, image_size=system.image_size)

    def track(path: Path) -> Frames:
        tracked = tracker.track(read_image(path)[None])
        if not bool(tracked.valid.all()):
            raise ValueError(tracked.reasons[0])
        return tracked.to_frames()

    return track


def write_submission(
    system: AvatarSystem,
    images: Iterable[tuple[str, str, Path]],
    output: Path,
    track: Callable[[Path], Frames],
) -> Iterator[tuple[str, str]]:
    """Write the submission; images that were done before are kept.

    Args:
        system: the model.
        images: see ``benchmark_images``.
        output: folder for the meshes and the archive.
        track: gives the tracked frame of a photograph, or raises ValueError.

    Yields:
        Key of each image and why it has no mesh; empty if it has one.
    """
    members: list[str] = []
    for participant, key, path in images:
        names = [
            f"{participant}/{key}/{kind}"
            for kind in ("mesh_posed.ply", "mesh_neutral.ply", "landmarks_posed.npy", "landmarks_neutral.npy")
        ]
        reason = ""
        if not all((output / name).is_file() for name in names):
            try:
                contents = _meshes(system, key, track(path))
            except ValueError as error:
                reason, names = " ".join(str(error).split()), []
            else:
                for name, data in zip(names, contents, strict=True):
                    write_atomic(output / name, data)
        members += names
        yield key, reason
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            archive.write(output / name, name)
    write_atomic(output / FILE, buffer.getvalue())


@torch.no_grad()
def _meshes(system: AvatarSystem, key: str, source: Frames) -> list[bytes]:
    """Posed and neutral mesh, then their landmarks."""
    code = system.code((key, 0), source)
    params = source.params.to(system.device)
    meshes, landmarks = [], []
    for pose in (params, at_rest(params)):
        mesh, points = in_millimetres(system.model.deform(code, pose).vertices.cpu(), system.model.head)
        if points is None:
            raise ValueError("the head model has no landmarks of the 68")
        buffer = io.BytesIO()
        np.save(buffer, points.numpy())
        meshes.append(ply_bytes(mesh))
        landmarks.append(buffer.getvalue())
    return [*meshes, *landmarks]
