"""FLAME (2019, 2020, 2023) from the user's own files.

FLAME is licensed by the Max Planck Society for non-commercial research and is never shipped; it is
downloaded from https://flame.is.tue.mpg.de after accepting its licence. Its pickles are read by
``restricted_pickle``, which runs nothing and needs no chumpy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rome_lightning.head.data import COMPUTED_LAYOUT, REGIONS, HeadData, LandmarkEmbedding
from rome_lightning.head.flame.atlas import compute_atlas
from rome_lightning.head.flame.regions import (
    compute_regions,
    read_regions,
    released_regions,
)
from rome_lightning.head.flame.released import (
    find_file,
    find_released,
    released_faces,
    released_vertex_uvs,
)
from rome_lightning.head.model import HeadModel
from rome_lightning.head.topology import (
    FloatArray,
    IntArray,
    boundary_loops,
    close_loop,
)
from rome_lightning.media.digest import file_sha256
from rome_lightning.pretrained.pickled_data import to_array
from rome_lightning.pretrained.restricted_pickle import load_npy_object, load_pickle

FLAME_PAGE = "https://flame.is.tue.mpg.de"
FLAME_LICENCE = "FLAME model licence, Max Planck Society: non-commercial scientific research only"
_NUM_SHAPE, _NUM_EXPRESSION = 300, 100


@dataclass(frozen=True)
class FlameFiles:
    """The model and the official files that complete it; ``None`` where the user has none."""

    model: Path
    layout: Path | None = None
    """Texture layout: ``head_template.obj``, or an ``.npz`` with ``vt`` and ``ft`` (FLAME_texture.npz)."""
    masks: Path | None = None
    """``FLAME_masks.pkl``."""
    ibug68: Path | None = None
    """``landmark_embedding.npy`` (68 points)."""
    mediapipe: Path | None = None
    """``mediapipe_landmark_embedding.npz`` (105 of MediaPipe's points)."""
    hair: Path | None = None
    """``hair_list.pkl`` of the ROME release: with ``neck``, exactly its moving vertices are taken."""
    neck: Path | None = None
    """``neck_list.pkl`` of the ROME release."""
    basis: Path | None = None
    """``u_full.pt`` of the ROME release, which tells the vertices of the neck list that move."""
    faces: Path | None = None
    """``faces_v2.pth`` of the ROME release: with ``uv_faces``, exactly its triangles of the mouth."""
    uv_faces: Path | None = None
    """``uvfaces_v2.pth`` of the ROME release."""
    vertex_uvs: Path | None = None
    """``vertex_uvcoords.pth`` of the ROME release: where each vertex samples maps of the surface."""

    @classmethod
    def beside(cls, model: str | Path, release: str | Path = "") -> FlameFiles:
        """The model and all official files in the same folder under their official names.

        Args:
            model: ``generic_model.pkl``.
            release: folder of the ROME release's data, for those of its files that do not lie there.
        """
        model = Path(model)
        released = find_released(model, release)

        def find(*names: str) -> Path | None:
            return next((model.with_name(name) for name in names if model.with_name(name).is_file()), None)

        return cls(
            model,
            released.get("head_template.obj") or find("head_template_mesh.obj", "FLAME_texture.npz"),
            find("FLAME_masks.pkl"),
            find_file(model, release, "landmark_embedding.npy"),
            find("mediapipe_landmark_embedding.npz"),
            released.get("hair_list.pkl"),
            released.get("neck_list.pkl"),
            released.get("u_full.pt"),
            released.get("faces_v2.pth"),
            released.get("uvfaces_v2.pth"),
            released.get("vertex_uvcoords.pth"),
        )


def load_flame(
    path: str | Path, num_shape: int = 100, num_expression: int = 50, files: FlameFiles | None = None
) -> HeadModel:
    """Read FLAME as a ``HeadModel``.

    The mouth, an open slit in FLAME, is closed with a strip of triangles (30 on the official mesh)
    after the original ones. Without an official layout a texture layout is computed (see ``atlas``);
    the head's name ends in ``-computed-uv`` then, because textures of one layout do not fit another.
    Without mask file the regions are approximate.

    Args:
        path: ``generic_model.pkl`` of FLAME 2019, 2020 or 2023.
        num_shape: identity components to keep, at most 300.
        num_expression: expression components to keep, at most 100.
        files: companion files; by default those beside the model, see ``FlameFiles.beside``.

    Raises:
        FileNotFoundError: if a file is missing; the message says where to get it.
        ValueError: if a file has the wrong content, or would run code.
    """
    files = files or FlameFiles.beside(path)
    for file in (getattr(files, field.name) for field in fields(files)):
        if file is not None and not file.is_file():
            raise FileNotFoundError(
                f"no file at {file.absolute()}; if you moved FLAME, put it back or pass its new path (the "
                f"head that ships with this package needs no file; FLAME is at {FLAME_PAGE} under its "
                f"licence: {FLAME_LICENCE})"
            )
    for name, count, limit in (
        ("num_shape", num_shape, _NUM_SHAPE),
        ("num_expression", num_expression, _NUM_EXPRESSION),
    ):
        if not 0 < count <= limit:
            raise ValueError(f"{name} must be between 1 and {limit}, got {count}")
    return HeadModel(read_flame(files, num_shape, num_expression))


def read_flame(files: FlameFiles, num_shape: int, num_expression: int) -> HeadData:
    """The arrays behind ``load_flame``."""
    arrays = read_arrays(files.model)
    vertices, directions = arrays["v_template"], arrays["shapedirs"]
    kept = [*range(num_shape), *range(_NUM_SHAPE, _NUM_SHAPE + num_expression)]
    basis = directions[:, :, kept]
    regressor = arrays["J_regressor"]
    joints = regressor @ vertices
    _check_axes(files.model, joints)
    open_faces = arrays["f"].astype(np.int64)
    faces, uvs, uv_faces = _triangles(files, vertices, open_faces, arrays["weights"])
    vertex_uvs = None if files.vertex_uvs is None else released_vertex_uvs(files.vertex_uvs, len(vertices))
    regions = compute_regions(vertices, faces, arrays["weights"], joints)
    if files.masks is not None:
        regions = read_regions(files.masks, regions)
    if files.hair is not None and files.neck is not None:
        regions = released_regions(files.hair, files.neck, files.basis, regions)
    landmarks = _landmarks(files, len(open_faces))
    digest = file_sha256(files.model)[:8]

    def single(array: FloatArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

    return HeadData(
        name=f"flame-{digest}" + (COMPUTED_LAYOUT if files.layout is None else ""),
        template=single(vertices),
        shape_basis=single(basis[:, :, :num_shape]),
        expression_basis=single(basis[:, :, num_shape:]),
        expression_names=tuple(f"expression_{i:03d}" for i in range(num_expression)),
        joints=single(joints),
        joint_basis=single(np.einsum("jv,vxk->jxk", regressor, basis)),
        skinning_weights=single(arrays["weights"] / arrays["weights"].sum(1, keepdims=True)),
        faces=torch.from_numpy(faces),
        uvs=torch.from_numpy(uvs),
        uv_faces=torch.from_numpy(uv_faces),
        vertex_uvs=None if vertex_uvs is None or files.layout is None else single(vertex_uvs),
        regions={name: torch.from_numpy(regions[name]) for name in REGIONS},
        landmarks=landmarks,
        pose_basis=single(arrays["posedirs"].reshape(-1, arrays["posedirs"].shape[-1]).T),
        num_open_faces=len(open_faces),
        licence=FLAME_LICENCE,
    )


def read_arrays(path: Path) -> dict[str, FloatArray]:
    """The needed arrays of a model file, with their shapes checked."""
    content = load_pickle(path)
    count = "v"
    wanted: dict[str, tuple[int | str, ...]] = {
        "v_template": (count, 3),
        "f": ("f", 3),
        "shapedirs": (count, 3, _NUM_SHAPE + _NUM_EXPRESSION),
        "posedirs": (count, 3, 36),
        "J_regressor": (5, count),
        "weights": (count, 5),
        "kintree_table": (2, 5),
    }
    missing = set(wanted) - set(content) if isinstance(content, dict) else set(wanted)
    if missing:
        raise ValueError(f"{path} is not a FLAME model: it lacks {', '.join(sorted(missing))}")
    arrays: dict[str, Any] = {name: to_array(content[name]) for name in wanted}
    sizes = {"v": arrays["v_template"].shape[0], "f": arrays["f"].shape[0]}
    for name, shape in wanted.items():
        expected = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in shape)
        if arrays[name].shape != expected:
            raise ValueError(
                f"{path} is not a FLAME model: {name} must have shape {expected}, got {arrays[name].shape}"
            )
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path} is damaged: {name} has numbers that are not finite")
    if arrays["f"].min() < 0 or arrays["f"].max() >= sizes["v"]:
        raise ValueError(f"{path} is damaged: its faces need vertices below {sizes['v']}")
    parents = arrays["kintree_table"][0, 1:].astype(np.int64)
    if parents.tolist() != [0, 1, 1, 1]:
        raise ValueError(
            f"{path} has a different skeleton than FLAME: parents {parents.tolist()}, expected [0, 1, 1, 1]"
        )
    return arrays


def _check_axes(path: Path, joints: FloatArray) -> None:
    """FLAME comes in metres, +x to the subject's left, +y up, +z forward, as head space wants it."""
    left, right = joints[3], joints[4]
    between, neck_to_eyes = left[0] - right[0], (left + right)[1] / 2 - joints[1, 1]
    forward = (left + right)[2] / 2 - joints[1, 2]
    if not (0.03 < between < 0.12 and 0.02 < neck_to_eyes < 0.4 and forward > 0):
        raise ValueError(
            f"{path}: expected a head in metres, +x to its left, +y up and +z forward; its eyes are "
            f"{between:.3f} apart on x, {neck_to_eyes:.3f} above and {forward:.3f} in front of the neck joint"
        )


def _triangles(
    files: FlameFiles, vertices: FloatArray, open_faces: IntArray, weights: FloatArray
) -> tuple[IntArray, FloatArray, IntArray]:
    """All triangles, texture coordinates and the triangles' corners among them."""
    if files.faces is None or files.uv_faces is None or files.layout is None:
        faces = np.concatenate([open_faces, _closing_faces(open_faces, vertices, weights)])
        return faces, *_layout(files.layout, vertices, open_faces, faces)
    faces, corners = released_faces(files.faces, files.uv_faces, open_faces)
    uvs, uv_faces = _layout(files.layout, vertices, open_faces, open_faces)
    if not np.array_equal(corners[: len(uv_faces)], uv_faces):
        raise ValueError(f"{files.uv_faces} does not fit {files.layout}: their corners differ")
    return faces, uvs, corners


def _closing_faces(faces: IntArray, vertices: FloatArray, weights: FloatArray) -> IntArray:
    """Triangles for the slit between the lips: the boundary that the jaw opens.

    Source: ROME closes FLAME's mouth too, so that the inside of the head is not seen.
    """
    loops = boundary_loops(faces)
    if not loops:
        return np.zeros((0, 3), dtype=np.int64)
    opened = [float(np.ptp(weights[loop, 2])) for loop in loops]
    slit = int(np.argmax(opened))
    if opened[slit] < 0.1:
        return np.zeros((0, 3), dtype=np.int64)
    return close_loop(loops[slit], vertices)


def _layout(
    path: Path | None, vertices: FloatArray, open_faces: IntArray, faces: IntArray
) -> tuple[FloatArray, IntArray]:
    """Texture coordinates of all faces, from the official layout or computed."""
    if path is None:
        return compute_atlas(vertices, faces)
    uvs, uv_faces = _read_npz_layout(path) if path.suffix == ".npz" else _read_obj_layout(path, open_faces)
    if uv_faces.shape != open_faces.shape or uv_faces.min() < 0 or uv_faces.max() >= len(uvs):
        raise ValueError(
            f"{path} does not fit the model: it has texture coordinates for {len(uv_faces)} faces, "
            f"the model {len(open_faces)}"
        )
    corner_of = np.zeros(len(vertices), dtype=np.int64)
    corner_of[open_faces.reshape(-1)] = uv_faces.reshape(-1)
    uv_faces = np.concatenate([uv_faces, corner_of[faces[len(open_faces) :]]])
    # Files have v up.
    return np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1), uv_faces


def _read_npz_layout(path: Path) -> tuple[FloatArray, IntArray]:
    with np.load(path, allow_pickle=False) as content:
        if not {"vt", "ft"} <= set(content.files):
            raise ValueError(
                f"{path} has no texture layout: expected arrays 'vt' and 'ft', got {content.files}"
            )
        return content["vt"].astype(np.float64), content["ft"].astype(np.int64)


def _read_obj_layout(path: Path, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Texture coordinates of an OBJ file, ordered like the faces of the model."""
    uvs, corners = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["vt"]:
            uvs.append([float(word) for word in words[1:3]])
        elif words[:1] == ["f"]:
            parts = [word.split("/") for word in words[1:]]
            if len(parts) != 3 or any(len(part) < 2 or not part[1] for part in parts):
                raise ValueError(
                    f"{path} has no texture layout: expected triangles with 'v/vt' corners, got {line!r}"
                )
            corners.append([[int(part[0]) - 1, int(part[1]) - 1] for part in parts])
    if not uvs or not corners:
        raise ValueError(f"{path} has no texture layout: expected 'vt' lines and faces with 'v/vt' corners")
    places = {}
    for face in corners:
        for turn in range(3):
            a, b, c = (face[(turn + k) % 3] for k in range(3))
            places[a[0], b[0], c[0]] = (a[1], b[1], c[1])
    rows = [places.get((int(a), int(b), int(c))) for a, b, c in faces]
    absent = sum(row is None for row in rows)
    if absent:
        raise ValueError(
            f"{path} does not fit the model: {absent} of its {len(faces)} faces are not in the file"
        )
    return np.array(uvs), np.array(rows, dtype=np.int64)


def _landmarks(files: FlameFiles, num_faces: int) -> dict[str, LandmarkEmbedding]:
    """Landmark embeddings of the files that the user has."""
    embeddings = {}
    if files.ibug68 is not None:
        content = load_npy_object(files.ibug68)
        names = ("full_lmk_faces_idx", "full_lmk_bary_coords")
        if not isinstance(content, dict) or not set(names) <= set(content):
            raise ValueError(f"{files.ibug68} is not a landmark embedding: it lacks {' or '.join(names)}")
        arrays = to_array(content[names[0]]).reshape(-1), to_array(content[names[1]]).reshape(-1, 3)
        embeddings["ibug68"] = _embedding(files.ibug68, *arrays, num_faces)
    if files.mediapipe is not None:
        with np.load(files.mediapipe, allow_pickle=False) as content:
            wanted = ("lmk_face_idx", "lmk_b_coords", "landmark_indices")
            if not set(wanted) <= set(content.files):
                raise ValueError(f"{files.mediapipe} is not a MediaPipe embedding: it lacks one of {wanted}")
            carriers, barycentrics, indices = (content[name] for name in wanted)
        embeddings["mediapipe105"] = _embedding(files.mediapipe, carriers, barycentrics, num_faces, indices)
    return embeddings


def _embedding(
    path: Path, faces: Any, barycentrics: Any, num_faces: int, indices: Any = None
) -> LandmarkEmbedding:
    faces, barycentrics = np.asarray(faces).astype(np.int64), np.asarray(barycentrics, dtype=np.float32)
    fits = (
        len(faces) > 0
        and barycentrics.shape == (len(faces), 3)
        and 0 <= faces.min() <= faces.max() < num_faces
    )
    if not fits or not np.allclose(barycentrics.sum(1), 1, atol=1e-3):
        raise ValueError(
            f"{path} does not fit the model: expected faces below {num_faces} with weights that sum to 1"
        )
    return LandmarkEmbedding(
        torch.from_numpy(faces),
        torch.from_numpy(barycentrics),
        None if indices is None else torch.from_numpy(np.asarray(indices).astype(np.int64)),
    )
