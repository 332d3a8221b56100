"""Conventions of single programs for a ``.glb``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rome_lightning.export.visemes import READY_PLAYER_ME, VISEMES


@dataclass(frozen=True)
class Profile:
    """How a file is written; the defaults are those of ``rome avatar export --format glb``."""

    rig: Literal["head", "mixamo"] = "head"
    """The head model's five joints, or a standing rig with Mixamo's names."""
    bone_names: Mapping[str, str] = field(default_factory=dict)
    """Names of bones that differ from those of the rig."""
    mesh_name: str | None = None
    """Of the mesh's node; the name of the file if not given."""
    mixes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Shapes behind the expressions, as weights of expressions."""
    texture: Literal["png", "jpeg", "webp"] = "png"
    """PNG is exact, JPEG a fraction of its size, WebP smaller again, for readers of ``EXT_texture_webp``."""
    compress: Literal["quantize", "draco"] | None = None
    """``quantize``: integers of 8 and 16 bits for normals, texture coordinates, weights and displacements,
    for readers of ``KHR_mesh_quantization``; ``draco``: vertices and triangles packed by Draco besides."""
    dense: bool = False
    """Dense displacements: not every engine's importer reads sparse ones."""
    unlit: bool = False
    """Show the texture unlit; otherwise the program adds its light to the photograph's."""


PLAIN = Profile()
PROFILES: dict[str, Profile] = {
    # Programs look at the photograph as it is and load it over a network.
    "three": Profile(texture="jpeg", unlit=True),
    # Blender mirrors bones by these endings.
    "blender": Profile(bone_names={"left_eye": "eye.L", "right_eye": "eye.R"}),
    # Engines compress the texture themselves.
    "unity": Profile(mixes=VISEMES, dense=True),
    "unreal": Profile(mixes=VISEMES, dense=True),
    "godot": Profile(mixes=VISEMES, dense=True),
    # Its lamps are bright, and the photograph has light already.
    "talkinghead": Profile("mixamo", mixes=VISEMES | READY_PLAYER_ME, texture="jpeg", unlit=True),
    "readyplayerme": Profile(
        "mixamo", mesh_name="Wolf3D_Avatar", mixes=VISEMES | READY_PLAYER_ME, texture="jpeg"
    ),
}
"""By the name of the program."""
