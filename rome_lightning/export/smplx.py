"""Hair and shoulders of an avatar on the user's own SMPL-X body, as a file that SMPL-X software loads."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from zlib import error as ZlibError

import numpy as np
import torch
from jaxtyping import Float, Int

from rome_lightning.avatar import Avatar
from rome_lightning.distillation.transfer import rest_vertices, transfer_offsets
from rome_lightning.geometry import similarity
from rome_lightning.head import HeadModel
from rome_lightning.media.atomic import atomic_file
from rome_lightning.models.basis import mesh_fingerprint

SMPLX_PAGE = "https://smpl-x.is.tue.mpg.de"
SMPLX_LICENCE = "SMPL-X model licence, Max Planck Society: non-commercial scientific research only"
_HOW_TO_GET = f"register at {SMPLX_PAGE} and download it ({SMPLX_LICENCE})"
_TEMPLATE = "v_template.npy"


def export_smplx(avatar: Avatar, path: Path, body: Path, correspondence: Path, flame: HeadModel) -> Path:
    """Write an SMPL-X body whose template has the avatar's hair, neck and shoulders.

    The offsets at rest, rotated and scaled from one template to the other, are added at the shared vertices;
    everything else in the body's file stays identical to the byte. The face remains the body's, which has its
    own shape coefficients; FLAME's expression and jaw pose fit.

    Args:
        avatar: the person; offsets of another head than ``flame`` are carried to it by registration.
        path: ``.npz`` to write, under the licence of ``body``.
        body: the user's ``SMPLX_NEUTRAL.npz``, or that of another gender.
        correspondence: the public ``SMPL-X__FLAME_vertex_ids.npy``: for each vertex of FLAME that of SMPL-X.
        flame: the head that the correspondence is about.

    Raises:
        FileNotFoundError: a file of the user is missing; the message says where to get it.
        ValueError: a file has another layout, or the two do not fit each other or ``flame``.
    """
    template = _read_template(body)
    ids = _read_correspondence(correspondence, flame, len(template))
    offsets, own = avatar.rest_mesh().offsets[0], avatar.model.head
    if mesh_fingerprint(own) != mesh_fingerprint(flame):
        offsets = transfer_offsets(offsets, own, flame)
    placed = similarity(rest_vertices(flame).double(), torch.from_numpy(template[ids]).double())
    scale, rotation = placed.scale.float(), placed.rotation.float()
    joined = template.copy()
    joined[ids] += (scale * offsets @ rotation.T).numpy().astype(template.dtype)
    return _write(body, joined, path)


def _read_template(body: Path) -> Float[np.ndarray, "b 3"]:
    """The body's vertices at rest, metres; nothing else of its file is opened, because parts are pickles."""
    if not body.is_file():
        raise FileNotFoundError(f"no SMPL-X body at {body}; {_HOW_TO_GET}")
    try:
        with zipfile.ZipFile(body) as archive:
            content = io.BytesIO(archive.read(_TEMPLATE))
        template = np.lib.format.read_array(content, allow_pickle=False)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, ZlibError) as error:
        raise ValueError(
            f"{body} is not an SMPL-X body: expected the .npz with v_template ({error}); {_HOW_TO_GET}"
        ) from error
    if template.ndim != 2 or template.shape[1] != 3 or template.dtype.kind != "f":
        raise ValueError(f"v_template of {body} is {template.dtype} {template.shape}, wanted floats (n, 3)")
    return template


def _read_correspondence(path: Path, flame: HeadModel, num_body: int) -> Int[np.ndarray, " v"]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no correspondence at {path}; expected SMPL-X__FLAME_vertex_ids.npy of `MANO and FLAME vertex "
            f"indices`: {_HOW_TO_GET}"
        )
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an .npy file of numbers ({error}); {_HOW_TO_GET}") from error
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.shape != (flame.num_vertices,):
        found = f"{ids.dtype} {ids.shape}" if isinstance(ids, np.ndarray) else "several arrays"
        raise ValueError(
            f"{path} has {found}, wanted one index for each of the {flame.num_vertices} vertices of "
            f"head {flame.name!r}; use SMPL-X__FLAME_vertex_ids.npy, and for an avatar with another head "
            "model pass your FLAME as --flame generic_model.pkl"
        )
    if len(np.unique(ids)) != len(ids) or ids.min() < 0 or ids.max() >= num_body:
        raise ValueError(
            f"{path} does not name {len(ids)} different vertices of a body of {num_body}; it belongs to "
            "another body model"
        )
    return ids.astype(np.int64)


def _write(body: Path, template: Float[np.ndarray, "b 3"], path: Path) -> Path:
    """The body's file with another template; the other members are copied unread."""
    if path.exists() and path.samefile(body):
        raise ValueError(f"--output {path} is the body itself; choose another name")
    with (
        atomic_file(path) as file,
        zipfile.ZipFile(body) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            if name != _TEMPLATE:
                target.writestr(name, source.read(name))
        with target.open(_TEMPLATE, "w") as member:
            np.lib.format.write_array(member, template, allow_pickle=False)
    return path
