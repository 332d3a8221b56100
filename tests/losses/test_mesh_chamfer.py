"""The 3D chamfer distance against SciPy's nearest neighbours."""

import pytest
import torch
from scipy.spatial import cKDTree

from rome_lightning.losses.mesh_chamfer import chamfer_3d


def points(num: int, seed: int) -> torch.Tensor:
    return torch.randn(3, num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_nearest_neighbours_of_a_tree() -> None:
    a, b = points(40, 0), points(25, 1)
    wanted = [
        (cKDTree(y).query(x)[0].mean() + cKDTree(x).query(y)[0].mean()) / 2
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert float(chamfer_3d(a, b)) == pytest.approx(sum(wanted) / 3)


def test_equal_sets_have_no_distance_and_a_finite_gradient() -> None:
    a = points(10, 0).requires_grad_()
    loss = chamfer_3d(a, points(10, 0))
    loss.backward()
    assert float(loss) == 0
    assert a.grad is not None
    assert a.grad.abs().max() == 0


@pytest.mark.gradcheck
def test_gradient() -> None:
    a, b = points(6, 2).requires_grad_(), points(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(chamfer_3d, (a, b))
