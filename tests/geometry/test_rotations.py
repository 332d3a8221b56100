"""Rotations against kornia's, which are equally accurate near zero."""

from __future__ import annotations

import pytest
import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix, rotation_matrix_to_axis_angle
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from rome_lightning.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle


def test_values() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    matrices = axis_angle_to_matrix(vectors)
    torch.testing.assert_close(matrices, axis_angle_to_rotation_matrix(vectors), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        matrix_to_axis_angle(matrices), rotation_matrix_to_axis_angle(matrices), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-4, 1e-3, 1e-2])
def test_derivatives_near_zero(size: float) -> None:
    vector = torch.tensor([size, -size / 2, size / 3], dtype=torch.float64)

    def ours(x: Tensor) -> Tensor:
        return axis_angle_to_matrix(x[None])[0]

    def theirs(x: Tensor) -> Tensor:
        return axis_angle_to_rotation_matrix(x[None])[0]

    torch.testing.assert_close(jacobian(ours, vector), jacobian(theirs, vector), atol=1e-8, rtol=0)
    # The series is short for a second derivative: at an angle of 1e-3 its error is 1e-6.
    for entry in ((0, 0), (0, 1), (2, 1)):
        torch.testing.assert_close(
            hessian(lambda x, entry=entry: ours(x)[entry], vector),
            hessian(lambda x, entry=entry: theirs(x)[entry], vector),
            atol=1e-5,
            rtol=0,
        )
