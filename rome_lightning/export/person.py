"""Write an avatar to files in the requested format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar import Avatar
from rome_lightning.export.animation import Motion
from rome_lightning.export.body import body_surface, with_body
from rome_lightning.export.bust import avatar_surface, neck_surface
from rome_lightning.export.garment import dress
from rome_lightning.export.glb import Person, export_glb, rest_and_joints
from rome_lightning.export.obj import export_obj, export_ply
from rome_lightning.export.profiles import PLAIN, Profile
from rome_lightning.export.simplification import simplified
from rome_lightning.export.surface import whole_surface
from rome_lightning.export.usd import export_usd, load_usd
from rome_lightning.export.vrm import VrmMeta, VrmVersion, export_vrm
from rome_lightning.media.atomic import atomic_file
from rome_lightning.models.texture import surface_of
from rome_lightning.renderer import sample_texture
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

FileFormat = Literal["glb", "vrm", "vrm0", "obj", "ply", "usd", "params"]
SUFFIXES: dict[FileFormat, str] = {
    "glb": ".glb",
    "vrm": ".vrm",
    "vrm0": ".vrm",
    "obj": ".obj",
    "ply": ".ply",
    "usd": ".usdz",
    "params": ".npz",
}
"""Suffix of each format's file."""
BodyPart = Literal["none", "bust", "full"]
"""Head and neck alone; as much as the photograph shows; a whole body in a plain garment."""
RIGGED = ("glb", "vrm", "vrm0", "usd")
"""Rigged formats: a skeleton, and a morph target per expression."""
_THUMBNAIL = 256
"""Side of the thumbnail in VRM files, pixels."""


def export_avatar(
    avatar: Avatar,
    path: Path,
    file_format: FileFormat,
    pose: HeadParams | None = None,
    motion: Motion | None = None,
    rights: str | None = None,
    author: str | None = None,
    profile: Profile = PLAIN,
    body: BodyPart = "bust",
) -> Path:
    """Write the person, including hair and shoulders, with the photographs' colours.

    Args:
        avatar: the person.
        path: file to write.
        file_format: ``glb``, ``vrm``, ``vrm0`` and ``usd`` are rigged; ``obj`` (with texture) and ``ply``
            (colours per vertex) are the mesh alone; ``params`` are the numbers of the head model and the
            offsets, see ``export_params``.
        pose: expression and pose of ``obj`` and ``ply`` (batch of one), or those that ``params`` holds (any
            number); at rest if not given.
        motion: an animation clip for a ``glb``.
        rights: owner of the photograph for the copyright notice of rigged files; by default the notice names
            the photograph.
        author: person responsible for a VRM file; by default the owner of the photograph.
        profile: conventions of the program that will read a ``glb``.
        body: how much of the person a rigged file shows.

    Raises:
        ValueError: a pose is given for a rigged format, or a body for one that has none.
        ImportError: ``usd`` without the library that writes it.
    """
    if file_format in RIGGED and pose is not None:
        raise ValueError(f"a {file_format} file is rigged and has no single pose; use obj or ply")
    if file_format != "glb" and (motion is not None or profile is not PLAIN):
        raise ValueError(f"only glb files support animations and profiles, got {file_format}")
    if body != "bust" and file_format not in RIGGED:
        raise ValueError(f"only {', '.join(RIGGED)} files support a body of {body!r}, got {file_format}")
    if file_format == "params":
        return export_params(avatar, path, pose)
    if file_format == "usd":
        load_usd()
    head = avatar.model.head
    if file_format in ("vrm", "vrm0"):
        thumbnail = F.interpolate(
            avatar.source.image, (_THUMBNAIL, _THUMBNAIL), mode="bilinear", antialias=True
        )
        meta = VrmMeta(path.stem, author or "the owner of the photograph", thumbnail[0])
        version: VrmVersion = "1.0" if file_format == "vrm" else "0.0"
        return export_vrm(path, rigged_person(avatar, rights=rights, body=body), meta, version)
    if file_format == "glb":
        person = rigged_person(avatar, rights=rights, body=body)
        return export_glb(path, person, name=path.stem, profile=profile, motion=motion)
    if file_format == "usd":
        return export_usd(path, rigged_person(avatar, rights=rights, body=body))
    texture = colour_texture(avatar)
    pose = pose if pose is not None else at_rest(avatar.source.params)
    vertices = head.to_world(avatar.posed_mesh(pose).vertices, pose)[0]
    if file_format == "obj":
        return export_obj(path, vertices, head.faces, head.uvs, head.uv_faces, texture)
    uvs = head.vertex_uvs.T[None, :, :, None]
    colours = sample_texture(texture[None].to(uvs.device), uvs)[0, :, :, 0].T
    return export_ply(path, vertices, head.faces, colours)


def export_lods(
    avatar: Avatar,
    path: Path,
    shares: Sequence[float],
    motion: Motion | None = None,
    rights: str | None = None,
    profile: Profile = PLAIN,
    body: BodyPart = "bust",
) -> list[Path]:
    """Write a ``.glb`` in full and, beside it, one per level of detail: ``NAME_lod1.glb`` and so on.

    Args:
        avatar: the person.
        path: file to write in full.
        shares: of the triangles, for each level; see ``simplified``.
        motion: as for ``export_avatar``.
        rights: as for ``export_avatar``.
        profile: as for ``export_avatar``.
        body: as for ``export_avatar``.

    Raises:
        ValueError: a share is not between 0 and 1, or a whole body on a head model that it does not fit.
        ImportError: the library that collapses edges is not installed.
    """
    person = rigged_person(avatar, rights=rights, body=body)
    # Before anything is written, so that a wrong share leaves no file.
    people = [person, *(simplified_person(person, share) for share in shares)]
    files = [path, *(path.with_stem(f"{path.stem}_lod{level}") for level in range(1, len(people)))]
    for file, level in zip(files, people, strict=True):
        export_glb(file, level, name=path.stem, profile=profile, motion=motion)
    return files


def simplified_person(person: Person, share: float) -> Person:
    """The person with a share of the triangles of each mesh; the head's and the body's edge stay one.

    Args:
        person: to simplify.
        share: of the triangles, in (0, 1).

    Raises:
        ValueError: ``share`` is not between 0 and 1.
        ImportError: the library that collapses edges is not installed.
    """
    rest, joints = rest_and_joints(person.head, person.shape, person.offsets)
    surface = person.surface or whole_surface(person.head)
    if person.body_texture is None:
        return dataclasses.replace(person, surface=simplified(surface, rest, share))
    figure = with_body(person.head, person.shape, rest, joints)
    # Borders keep all their vertices, so no gap opens between the two.
    return dataclasses.replace(
        person,
        surface=simplified(surface, figure.head_vertices, share),
        body_surface=simplified(person.body_surface or body_surface(), figure.vertices, share),
    )


def rigged_person(
    avatar: Avatar, texture_size: int = 1024, rights: str | None = None, body: BodyPart = "bust"
) -> Person:
    """The person as rigged formats write it: a closed bust or a whole figure with the photographs' colours.

    Args:
        avatar: the person.
        texture_size: side of the texture, texels.
        rights: whose photograph it is; names the photograph by default.
        body: how much of the person to show.

    Raises:
        ValueError: a whole body on a head model that it does not fit.
    """
    texture = colour_texture(avatar, texture_size)
    head, shape, rights = avatar.model.head, avatar.code.shape[0], rights or copyright_of(avatar)
    if body == "full":
        dressed = dress(avatar, texture)
        return Person(
            head, shape, dressed.offsets, dressed.colour_texture, None, rights, dressed.body_texture
        )
    # The cap has the mean colour of the neck and shoulders, darkened like a shadow.
    border = max(2, texture_size // 128)
    below = head.vertex_uvs[head.region("neck", "shoulders")]
    around = sample_texture(texture[None], below.T[None, :, :, None].to(texture.device))
    texture[:, :border, :border] = 0.5 * around.mean((0, 2, 3)).view(3, 1, 1)
    surface = avatar_surface(avatar) if body == "bust" else neck_surface(avatar)
    return Person(head, shape, avatar.rest_mesh().offsets[0], texture, surface, rights)


def copyright_of(avatar: Avatar) -> str:
    """A sentence about the rights in the photographs that an avatar was made from."""
    names = ", ".join(avatar.photo_names)
    shown = f"the photograph{'s' * (len(avatar.photo_names) > 1)} {names}" if names else "a photograph"
    return f"likeness and colours: from {shown}; rights remain with the owner and the person shown"


@torch.no_grad()
def colour_texture(avatar: Avatar, size: int = 1024) -> Float[Tensor, "3 s s"]:
    """The complete colour texture of a person, RGB in [0, 1].

    The photographs' colours, completed like the model's own input; the texture extends beyond its charts, so
    that mipmaps have no seams.

    Args:
        avatar: the person.
        size: side, texels.
    """
    seen = avatar.observed_texture(size)
    completion = surface_of(avatar.model.head, size).completion
    complete, _ = completion(seen.colour, seen.visibility, seen.hair)
    return complete[0].clamp(0, 1)


def export_params(avatar: Avatar, path: Path, pose: HeadParams | None = None) -> Path:
    """Write the head model's parameters and the avatar's offsets as NumPy arrays, nothing pickled.

    The names are those of the ``smplx`` package's FLAME; with a FLAME head its model takes the arrays as
    they are (``betas`` and ``expression`` of the lengths that the head was loaded with). On the open head
    ``expression`` are the weights of the ARKit blendshapes whose names are in ``expression_names``. That
    package does not know ``torso_shift``, which moves what hangs on the root joint.

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
        "torso_shift": pose.torso_shift,
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
