"""The renderer's kernels in Warp.

Each module has a torch counterpart of the same name in the renderer and computes the same; face ids and
contours are bit-equal. Imported only where ``warp`` is installed, through ``acceleration.kernels``.
"""

from rome_lightning.renderer.kernels.interpolation import interpolate, interpolate_backward
from rome_lightning.renderer.kernels.nearest_fill import carry, carry_backward, nearest_covered
from rome_lightning.renderer.kernels.silhouette import coverage, coverage_backward
from rome_lightning.renderer.kernels.soft import (
    soft_layers,
    soft_uncovered,
    soft_uncovered_backward,
)
from rome_lightning.renderer.kernels.texture import render_texture, render_texture_backward
from rome_lightning.renderer.kernels.visibility import face_ids

__all__ = [
    "carry",
    "carry_backward",
    "coverage",
    "coverage_backward",
    "face_ids",
    "interpolate",
    "interpolate_backward",
    "nearest_covered",
    "render_texture",
    "render_texture_backward",
    "soft_layers",
    "soft_uncovered",
    "soft_uncovered_backward",
]
