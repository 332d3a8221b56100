"""The similarity between point sets, against scikit-image and by its definition."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from skimage.transform import EuclideanTransform, SimilarityTransform

from rome_lightning.geometry import similarity


def noisy_points(dimensions: int, batch: int = 1, num: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(dimensions)
    shape = (batch, num, dimensions)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("kind", "with_scale"), [(SimilarityTransform, True), (EuclideanTransform, False)])
def test_as_scikit_image(dimensions: int, kind: type, with_scale: bool) -> None:
    source, target = noisy_points(dimensions, batch=4)
    found = similarity(source, target, with_scale=with_scale)
    for row in range(4):
        expected = kind.from_estimate(source[row].numpy(), target[row].numpy()).params
        matrix = found.scale[row] * found.rotation[row]
        # Double precision.
        np.testing.assert_allclose(matrix, expected[:dimensions, :dimensions], atol=1e-12)
        np.testing.assert_allclose(found.shift[row], expected[:dimensions, dimensions], atol=1e-12)
        moved = source[row] @ torch.from_numpy(expected[:dimensions, :dimensions]).T
        moved = moved + torch.from_numpy(expected[:dimensions, dimensions])
        np.testing.assert_allclose(found(source)[row], moved, atol=1e-12)


def test_a_mirror_image_is_not_mirrored_back() -> None:
    source, _ = noisy_points(3)
    found = similarity(source, source * torch.tensor([-1.0, 1.0, 1.0]))
    assert torch.linalg.det(found.rotation)[0].item() == pytest.approx(1)


def test_no_other_similarity_has_a_smaller_weighted_error() -> None:
    source, target = noisy_points(3)
    weights = torch.rand(source.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def error(values: np.ndarray) -> float:
        moved = values[6] * source[0].numpy() @ Rotation.from_rotvec(values[:3]).as_matrix().T + values[3:6]
        return float((weights.numpy() * ((moved - target[0].numpy()) ** 2).sum(1)).sum())

    found = similarity(source, target, weights)
    turn = Rotation.from_matrix(found.rotation[0].numpy()).as_rotvec()
    values = np.concatenate([turn, found.shift[0], found.scale])
    best = minimize(error, values + 0.1, method="BFGS", options={"gtol": 1e-9})
    # BFGS differentiates numerically.
    np.testing.assert_allclose(best.x, values, atol=1e-5)
