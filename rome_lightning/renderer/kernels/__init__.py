"""Fused kernels in Warp: one source for CPU and CUDA, compiled at first use and cached by Warp.

Each module belongs to one of the renderer and has a counterpart in torch there with the same meaning; ids and
contours are bit-equal to it. Imported only where ``warp`` is installed, through
``acceleration.warp_kernels``.
"""

from rome_lightning.renderer.kernels.launch import start

start()

from rome_lightning.renderer.kernels.extension import carry, carry_backward, nearest_covered  # noqa: E402
from rome_lightning.renderer.kernels.interpolation import interpolate, interpolate_backward  # noqa: E402
from rome_lightning.renderer.kernels.silhouette import coverage, coverage_backward  # noqa: E402
from rome_lightning.renderer.kernels.soft import (  # noqa: E402
    soft_layers,
    soft_uncovered,
    soft_uncovered_backward,
)
from rome_lightning.renderer.kernels.texture import render_texture, render_texture_backward  # noqa: E402
from rome_lightning.renderer.kernels.visibility import face_ids  # noqa: E402

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
