"""An avatar as files, in the format that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rome_lightning.avatar import Avatar
from rome_lightning.export.colour_texture import bake_colour_texture
from rome_lightning.export.glb import export_glb
from rome_lightning.export.obj import export_obj, export_ply
from rome_lightning.export.usd import export_usd, load_usd
from rome_lightning.media.atomic import atomic_file
from rome_lightning.renderer import sample_texture
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

FileFormat = Literal["glb", "obj", "ply", "usd", "params"]
SUFFIXES: dict[FileFormat, str] = {
    "glb": ".glb",
    "obj": ".obj",
    "ply": ".ply",
    "usd": ".usdz",
    "params": ".npz",
}
"""Of the file that each format writes."""
RIGGED = ("glb", "usd")
"""Formats whose file moves: a skeleton, and a morph target per expression."""


def export_avatar(
    avatar: Avatar, path: Path, file_format: FileFormat, pose: HeadParams | None = None
) -> Path:
    """Write the person, hair and shoulders included, with the photographs' colours.

    Args:
        avatar: the person.
        path: file to write.
        file_format: ``glb`` and ``usd`` are rigged; ``obj`` (with texture) and ``ply`` (colours per vertex)
            are the mesh alone; ``params`` are the numbers of the head model and the offsets, see
            ``export_params``.
        pose: expression and pose of ``obj`` and ``ply`` (batch of one), or those that ``params`` holds (any
            number); at rest if not given.

    Raises:
        ValueError: a pose is given for a format that has all poses in it.
        ImportError: ``usd`` without the library that writes it.
    """
    if file_format in RIGGED and pose is not None:
        raise ValueError(f"a {file_format} file is rigged and holds no single pose; use obj or ply")
    if file_format == "params":
        return export_params(avatar, path, pose)
    if file_format == "usd":
        load_usd()
    head = avatar.model.head
    texture = colour_texture(avatar)
    if file_format in RIGGED:
        offsets = avatar.rest_mesh().offsets[0]
        if file_format == "usd":
            return export_usd(path, head, avatar.code.shape[0], offsets, texture)
        return export_glb(path, head, avatar.code.shape[0], offsets, texture, name=path.stem)
    pose = pose if pose is not None else at_rest(avatar.source.params)
    vertices = head.to_world(avatar.posed_mesh(pose).vertices, pose)[0]
    if file_format == "obj":
        return export_obj(path, vertices, head.faces, head.uvs, head.uv_faces, texture)
    uvs = head.vertex_uvs.T[None, :, :, None]
    colours = sample_texture(texture[None].to(uvs.device), uvs)[0, :, :, 0].T
    return export_ply(path, vertices, head.faces, colours)


def colour_texture(avatar: Avatar, size: int = 1024) -> Float[Tensor, "3 s s"]:
    """The complete colour texture of a person, RGB in [0, 1].

    Args:
        avatar: the person.
        size: side, texels.
    """
    seen = avatar.observed_texture(size)
    return bake_colour_texture(avatar.model.head, seen.colour[0], seen.visibility[0])


def export_params(avatar: Avatar, path: Path, pose: HeadParams | None = None) -> Path:
    """Write the head model's parameters and the avatar's offsets as NumPy arrays, nothing pickled.

    The names are those of the ``smplx`` package's FLAME; with a FLAME head its model takes the arrays as
    they are (``betas`` and ``expression`` of the lengths that the head was loaded with). On the open head
    ``expression`` are the weights of the ARKit blendshapes whose names are in ``expression_names``.

    Args:
        avatar: the person.
        path: ``.npz`` file to write.
        pose: any number of frames; at rest if not given.
    """
    head = avatar.model.head
    pose = pose if pose is not None else at_rest(avatar.source.params)
    mesh = avatar.rest_mesh()
    left, right = pose.eye_pose.split(3, dim=-1)
    tensors = {
        "betas": avatar.code.shape.expand(len(pose), -1),
        "expression": pose.expression,
        "global_orient": pose.global_pose,
        "neck_pose": pose.neck_pose,
        "jaw_pose": pose.jaw_pose,
        "leye_pose": left,
        "reye_pose": right,
        "camera": pose.camera,
        "offsets": mesh.offsets[0],
        "vertices": mesh.vertices[0],
        "faces": head.faces,
    }
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    with atomic_file(path) as file:
        np.savez_compressed(
            file, head=np.str_(head.name), expression_names=np.array(head.expression_names), **arrays
        )
    return path
