import math

import pytest
import torch

from rome_lightning.networks import harmonic_encoding


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_against_scalars(variant: str) -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    encoded = harmonic_encoding(x, 3, variant=variant)  # type: ignore[arg-type]
    factors = {"release": (1, 2, 4), "paper": (1, 2, 3)}[variant]
    for b in range(2):
        for n in range(4):
            values = x[b, n].tolist()
            expected = list(values)
            for factor in factors:
                expected += [math.sin(factor * v) for v in values] + [math.cos(factor * v) for v in values]
            assert encoded[b, n].tolist() == pytest.approx(expected, abs=1e-12)


def test_channels_can_be_any_dimension() -> None:
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    encoded = harmonic_encoding(image, dim=1)
    assert encoded.shape == (2, 39, 4, 5)
    assert torch.equal(encoded, harmonic_encoding(image.movedim(1, -1)).movedim(-1, 1))
    # The background of a normal map is 0, so its cosines are 1, as in the release.
    background = harmonic_encoding(torch.zeros(1, 3, 1, 1), dim=1).flatten()
    assert background.tolist() == [0.0] * 3 + ([0.0] * 3 + [1.0] * 3) * 6


def test_unknown_variant() -> None:
    # A TypeError when the suite runs with shape and type checks switched on.
    with pytest.raises((ValueError, TypeError), match="nerf"):
        harmonic_encoding(torch.zeros(1, 3), variant="nerf")  # type: ignore[arg-type]
