"""An avatar as one file, in the format that its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rome_lightning.avatar import Avatar
from rome_lightning.export.bake import bake_colour_texture
from rome_lightning.export.glb import export_glb
from rome_lightning.export.obj import export_obj


def export_avatar(avatar: Avatar, path: Path, file_format: Literal["glb", "obj"]) -> Path:
    """Write the person at rest, hair and shoulders included, with the photograph's colours.

    Args:
        avatar: the person.
        path: file to write.
        file_format: ``glb`` has a skeleton and a morph target per expression; ``obj`` is the mesh alone.
    """
    head = avatar.model.head
    colour, visibility = avatar.observed_texture()
    texture = bake_colour_texture(head, colour[0], visibility[0])
    mesh = avatar.rest_mesh()
    if file_format == "obj":
        return export_obj(path, mesh.vertices[0], head.faces, head.uvs, head.uv_faces, texture)
    return export_glb(path, head, avatar.code.shape[0], mesh.offsets[0], texture, name=path.stem)
