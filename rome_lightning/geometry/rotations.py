"""Axis-angle vectors and rotation matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrices by Rodrigues' formula, differentiable at zero rotation.

    Args:
        axis_angle: radians; direction is the axis, length the angle.

    Example:
        >>> quarter = axis_angle_to_matrix(torch.tensor([0.0, 0.0, torch.pi / 2]))
        >>> (quarter @ torch.tensor([1.0, 0.0, 0.0])).round(decimals=3).abs()
        tensor([0., 1., 0.])
    """
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None]
    small = squared < 1e-6
    # sqrt has no finite gradient at 0: the Taylor series is used there, with a safe operand for this branch.
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    sine = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle.square())
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine * cross + cosine * (cross @ cross)


def matrix_to_axis_angle(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Logarithm of a rotation.

    Accurate away from half turns (angle < 3.1 rad), which no head makes.
    """
    skew = torch.stack(
        [
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ],
        dim=-1,
    )
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    sine = skew.norm(dim=-1) / 2
    angle = torch.atan2(sine, (trace - 1) / 2)
    scale = torch.where(sine > 1e-6, angle / (2 * sine.clamp_min(1e-12)), torch.full_like(sine, 0.5))
    return scale[..., None] * skew
