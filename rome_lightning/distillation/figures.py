"""Figures of a basis: its components as shaded heads, and the variance that it keeps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from rome_lightning.distillation.fitting import BasisFit
from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.models import LinearBasis
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.types import HeadParams

_CAMERA = (4.2, 0.0, 0.02)
_YAWS = (0.0, 1.0)
"""From the front, and from the subject's right, radians."""


@torch.no_grad()
def shaded_heads(
    head: HeadModel, offsets: Float[Tensor, "b v 3"], yaw: float, size: int = 192
) -> Float[Tensor, "b 3 s s"]:
    """The mean head with offsets, grey and lit from the viewer, on white.

    Args:
        head: the head model.
        offsets: at rest, metres.
        yaw: turn of the head about the vertical, radians.
        size: side of the pictures, pixels.
    """
    params = HeadParams.neutral(len(offsets), head.num_shape, head.num_expression).to(offsets.device)
    params.global_pose[:, 1] = yaw
    params.camera[:] = torch.tensor(_CAMERA)
    world = head.to_world(head(params) + offsets, params)
    pixels = project(world, params.camera, (size, size))
    ids = get_rasterizer("auto").face_ids(pixels, head.faces, (size, size))
    normals = interpolate(pixels, head.faces, ids, vertex_normals(world, head.faces))
    light = torch.tensor([0.3, 0.4, 0.87], device=offsets.device)
    shade = 0.2 + 0.75 * (normals * light[:, None, None]).sum(1, keepdim=True).clamp_min(0)
    return torch.where((ids >= 0)[:, None], shade, 1.0).expand(-1, 3, -1, -1)


def components_figure(basis: LinearBasis, head: HeadModel, num_hair: int = 5, num_neck: int = 2) -> Figure:
    """The first components at -3, 0 and +3 standard deviations, from the front and from the side."""
    chosen = [*range(min(num_hair, basis.num_hair))]
    chosen += [basis.num_hair + i for i in range(min(num_neck, basis.num_neck))]
    rows = len(chosen)
    figure = Figure(figsize=(9, 1.6 * rows), layout="constrained")
    for row, index in enumerate(chosen):
        coefficients = torch.zeros(3, len(basis.components))
        coefficients[:, index] = torch.tensor([-3.0, 0.0, 3.0]) * basis.std[index].cpu()
        offsets = basis.offsets(coefficients.to(basis.std.device))
        pictures = torch.cat([shaded_heads(head, offsets, yaw) for yaw in _YAWS])
        for column, picture in enumerate(pictures):
            axes = figure.add_subplot(rows, 6, 6 * row + column + 1)
            axes.imshow(picture.permute(1, 2, 0).cpu().numpy())
            axes.set_axis_off()
            if row == 0:
                axes.set_title(
                    f"{(-3, 0, 3)[column % 3]:+d} sigma" if column % 3 != 1 else "mean", fontsize=9
                )
            if column == 0:
                axes.text(-0.05, 0.5, basis.names[index], transform=axes.transAxes, rotation=90, va="center")
    return figure


def curves_figure(fit: BasisFit) -> Figure:
    """Explained variance and error in millimetres against the number of components."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    variance, error = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for colour, (name, curve) in enumerate(fit.curves.items()):
        counts = range(1, len(curve.explained) + 1)
        variance.plot(counts, 100 * curve.explained, f"C{colour}", label=name)
        error.plot(curve.error_mm, f"C{colour}", label=name)
        if curve.held_out_mm is not None:
            error.plot(curve.held_out_mm, f"C{colour}--", label=f"{name}, other people")
    variance.set_ylabel("explained variance [%]")
    error.set_ylabel("error of a vertex, RMS [mm]")
    for axes in (variance, error):
        axes.set_xlabel("components")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def curves_csv(fit: BasisFit) -> str:
    """The same numbers as text; a row per part and number of components."""
    lines = ["part,components,explained_variance_ratio,rms_mm,rms_mm_held_out"]
    for name, curve in fit.curves.items():
        shares = [0.0, *curve.explained.tolist()]
        for count, (share, error) in enumerate(zip(shares, curve.error_mm.tolist(), strict=True)):
            other = "" if curve.held_out_mm is None else f"{curve.held_out_mm[count]:.4f}"
            lines.append(f"{name},{count},{share:.6f},{error:.4f},{other}")
    return "\n".join(lines) + "\n"
