"""Avatars as files that other tools open: rigged glTF, textured OBJ, PLY."""

from rome_lightning.export.animation import Motion
from rome_lightning.export.glb import Person, export_glb
from rome_lightning.export.obj import export_obj, export_ply

__all__ = ["Motion", "Person", "export_glb", "export_obj", "export_ply"]
