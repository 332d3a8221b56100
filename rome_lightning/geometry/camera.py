"""The weak-perspective camera; conventions in the package docstring."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry.rotations import axis_angle_to_matrix


def rotate_about(
    points: Float[Tensor, "b v 3"], rotation: Float[Tensor, "b 3"], centre: Float[Tensor, "b 3"]
) -> Float[Tensor, "b v 3"]:
    """Rotate points about a centre.

    Args:
        points: metres.
        rotation: axis-angle, radians.
        centre: fixed point, metres.
    """
    turn = axis_angle_to_matrix(rotation).transpose(1, 2)
    centre = centre[:, None]
    # R (p - c) + c in one pass over the points.
    return torch.baddbmm(centre - centre @ turn, points, turn)


def project(
    points_world: Float[Tensor, "b v 3"], camera: Float[Tensor, "b 3"], image_size: tuple[int, int]
) -> Float[Tensor, "b v 3"]:
    """Weak-perspective projection to pixels.

    Args:
        points_world: metres, already rotated by the global pose.
        camera: (scale, t_x, t_y); scale in NDC units per metre, translation in metres.
        image_size: (height, width).

    Returns:
        x and y in pixels; z in pixels, smaller is nearer.

    Source: ROME, sec. 3.1 (weak perspective of DECA); y points down in the image.

    Example:
        >>> origin, camera = torch.zeros(1, 1, 3), torch.tensor([[4.0, 0.0, 0.0]])
        >>> project(origin, camera, (64, 64))[..., :2]
        tensor([[[31.5000, 31.5000]]])
    """
    scale = camera[:, None, :1]
    x, y, z = (points_world * scale).unbind(-1)
    shift = camera[:, 1:] * camera[:, :1]
    points_ndc = torch.stack([x + shift[:, :1], -(y + shift[:, 1:]), -z], dim=-1)
    return ndc_to_pixels(points_ndc, image_size)


def ndc_to_pixels(points_ndc: Float[Tensor, "b v 3"], image_size: tuple[int, int]) -> Float[Tensor, "b v 3"]:
    """Map NDC to pixels; z takes the scale of x."""
    height, width = image_size
    x, y, z = points_ndc.unbind(-1)
    return torch.stack([(x + 1) * width / 2 - 0.5, (y + 1) * height / 2 - 0.5, z * width / 2], dim=-1)


def pixels_to_ndc(points_px: Float[Tensor, "b v d"], image_size: tuple[int, int]) -> Float[Tensor, "b v d"]:
    """Inverse of ``ndc_to_pixels``, for points with or without depth."""
    height, width = image_size
    x = (points_px[..., 0] + 0.5) * 2 / width - 1
    y = (points_px[..., 1] + 0.5) * 2 / height - 1
    return torch.cat([x[..., None], y[..., None], points_px[..., 2:] * 2 / width], dim=-1)
