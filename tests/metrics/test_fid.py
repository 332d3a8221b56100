import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from rome_lightning.metrics import FID, frechet_distance, inception_features
from rome_lightning.metrics.fid import Moments


class Pooled(nn.Module):
    """A stand-in for Inception: eight numbers per image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)[:, :8]


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """The formula with a matrix square root."""
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    return float(
        ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * np.real(root))
    )


def features(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 6, generator=generator, dtype=torch.float64)
        @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
        + seed
    )


def test_distance_against_scipy() -> None:
    a, b = features(40, 0), features(30, 1)
    sides = []
    for x in (a, b):
        sums = Moments(6)
        sums.add(x[:7])
        sums.add(x[7:])
        sides.append(sums.mean_and_covariance())
    assert frechet_distance(*sides[0], *sides[1]) == pytest.approx(by_scipy(a.numpy(), b.numpy()), rel=1e-8)
    assert frechet_distance(*sides[0], *sides[0]) == pytest.approx(0, abs=1e-8)


def test_one_dimension_by_hand() -> None:
    one = torch.ones(1, dtype=torch.float64)
    # (m1 - m2)^2 + (s1 - s2)^2 for one-dimensional normal distributions.
    assert frechet_distance(3 * one, 4 * one[None], one, 9 * one[None]) == pytest.approx(4 + 1)


def test_class_is_exact_over_batches_and_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.rand(12, 3, 20, 20, generator=generator), torch.rand(9, 3, 20, 20, generator=generator)
    whole, first, second = (FID(Pooled(), 8) for _ in range(3))
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert whole.compute().isnan()
    whole.reset()
    whole.update(real, real=True)
    whole.update(fake, real=False)
    first.update(real[:5], real=True)
    second.update(real[5:], real=True)
    second.update(fake, real=False)
    first.merge_state(second)
    expected = by_scipy(*(inception_features(Pooled(), x).double().numpy() for x in (real, fake)))
    assert float(whole.compute()) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(first.compute(), whole.compute())


def test_resizing_is_that_of_tensorflow_1() -> None:
    """Pixel i of the result is sampled at i * scale, without a shift by half a pixel."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    class Keep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.flatten(1)

    inception_features(Keep(), image)
    pixels = (image[0, 0] * 255).round().double().numpy()
    for row, column in ((0, 0), (10, 200), (298, 298), (150, 3)):
        y, x = row * 64 / 299, column * 64 / 299
        top, left = int(y), int(x)
        down, right = min(top + 1, 63), min(left + 1, 63)
        fy, fx = y - top, x - left
        value = (
            pixels[top, left] * (1 - fy) * (1 - fx)
            + pixels[top, right] * (1 - fy) * fx
            + pixels[down, left] * fy * (1 - fx)
            + pixels[down, right] * fy * fx
        )
        assert float(seen[0][0, 0, row, column]) == pytest.approx((value - 128) / 128, abs=1e-4)
