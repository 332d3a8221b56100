"""Differentiable rendering of triangle meshes: one id buffer, everything differentiable on top of it.

A ``Rasterizer`` only determines visibility: the index of the face at each pixel centre. All backends share
the rest: ``interpolate`` evaluates attributes at pixels, ``coverage`` gives the silhouette its gradient, and
``sample_texture`` and ``UVLayout`` connect pixels, texels and vertices. Spaces and the pixel-centre rule are
those of ``rome_lightning.geometry``: x right, y down, smaller z nearer.
"""

from rome_lightning.renderer.fill import push_pull
from rome_lightning.renderer.interpolation import interpolate
from rome_lightning.renderer.nearest_fill import extend_outside, nearest_covered
from rome_lightning.renderer.rasterizer import Rasterizer, available_rasterizers, get_rasterizer
from rome_lightning.renderer.released import released_share
from rome_lightning.renderer.silhouette import coverage
from rome_lightning.renderer.soft import OFFICIAL, soft_silhouette
from rome_lightning.renderer.texture import (
    UVLayout,
    render_texture,
    sample_texture,
    unproject,
)

__all__ = [
    "OFFICIAL",
    "Rasterizer",
    "UVLayout",
    "available_rasterizers",
    "coverage",
    "extend_outside",
    "get_rasterizer",
    "interpolate",
    "nearest_covered",
    "push_pull",
    "released_share",
    "render_texture",
    "sample_texture",
    "soft_silhouette",
    "unproject",
]
