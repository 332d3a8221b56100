"""The ROME release's additions to FLAME: triangles, texture layout and moving vertices.

The files come with the release's code (https://github.com/SamsungLabs/rome, non-commercial research), except
``head_template.obj``, which comes with DECA. They belong to their users; none is shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rome_lightning.head.topology import FloatArray, IntArray

CONSEQUENCES = {
    "head_template.obj": "the layout is computed, which the weights were not trained with: colours are wrong",
    "faces_v2.pth": "the mouth is closed with other triangles: the lips differ by some pixels",
    "uvfaces_v2.pth": "the mouth's triangles have other texture coordinates: the lips' colours differ",
    "vertex_uvcoords.pth": "vertices at the seams are displaced as others: offsets differ by a millimetre",
    "hair_list.pkl": "the scalp is guessed: other vertices grow hair",
    "neck_list.pkl": "neck and shoulders are guessed: other vertices move",
    "u_full.pt": "all listed neck vertices move, not only those of the release's basis",
}
"""The release's files, and the effect of missing each."""


def find_released(model: Path, folder: str | Path) -> dict[str, Path]:
    """Which of the files there are, by name: beside the model first, then in the release's folder.

    Args:
        model: FLAME's ``generic_model.pkl``.
        folder: the release's ``data``, or empty; ``DECA/data`` beside it, a submodule, is looked into too.
    """
    files = {name: find_file(model, folder, name) for name in CONSEQUENCES}
    return {name: file for name, file in files.items() if file is not None}


def find_file(model: Path, folder: str | Path, name: str) -> Path | None:
    """A file beside the model, in the release's folder, or in ``DECA/data`` beside that; None if in none."""
    places = [model.parent]
    if str(folder):
        places += [Path(folder), Path(folder).parent / "DECA" / "data"]
    return next((place / name for place in places if (place / name).is_file()), None)


def check_released(model: Path, folder: str | Path) -> list[str]:
    """One line for each file of the release that is not there."""
    found = find_released(model, folder)
    return [f"{name} is missing: {effect}" for name, effect in CONSEQUENCES.items() if name not in found]


def released_faces(faces_file: Path, uv_faces_file: Path, open_faces: IntArray) -> tuple[IntArray, IntArray]:
    """The release's triangles, which continue the model's with those of the mouth, and their corners."""
    faces, corners = _indices(faces_file), _indices(uv_faces_file)
    if faces.shape != corners.shape or not np.array_equal(faces[: len(open_faces)], open_faces):
        raise ValueError(
            f"{faces_file} and {uv_faces_file} do not fit the model: they must continue its "
            f"{len(open_faces)} triangles in their order, and have {faces.shape[0]} and {corners.shape[0]}"
        )
    return faces, corners


def released_vertex_uvs(path: Path, count: int) -> FloatArray:
    """Texture coordinates of the vertices in [0, 1], v down; the file has them in [-1, 1], v down."""
    coordinates = _tensor(path).double().numpy()
    if coordinates.shape != (count, 2):
        raise ValueError(f"{path} does not fit the head: expected {(count, 2)}, got {coordinates.shape}")
    values: FloatArray = (coordinates + 1) / 2
    return values


def _indices(path: Path) -> IntArray:
    indices = _tensor(path)
    if indices.ndim != 2 or indices.shape[1] != 3 or indices.is_floating_point():
        raise ValueError(
            f"{path} should contain corners of triangles, (n, 3), but has {tuple(indices.shape)}"
        )
    return indices.long().numpy()


def _tensor(path: Path) -> torch.Tensor:
    """The one tensor of a file of the release, without the leading 1 of its shape."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a tensor: {str(error).splitlines()[0]}") from error
    if not isinstance(content, torch.Tensor):
        raise ValueError(f"{path} should contain one tensor, but contains {type(content).__name__}")
    return content.squeeze(0)
