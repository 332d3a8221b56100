"""Avatars as files that other tools open: rigged glTF, textured OBJ, PLY."""

from rome_lightning.export.colour_texture import bake_colour_texture
from rome_lightning.export.glb import export_glb
from rome_lightning.export.obj import export_obj, export_ply

__all__ = ["bake_colour_texture", "export_glb", "export_obj", "export_ply"]
