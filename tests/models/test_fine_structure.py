"""Noise with the look of a sample."""

import torch
from torch import Tensor

from rome_lightning.models.fine_structure import quadratic_axes, spot_noise, without_trend


def covariance(tile: Tensor, row: int, column: int) -> Tensor:
    """Of the channels of each pixel with those of another at some distance, across the borders as well."""
    moved = tile.roll((-row, -column), (-2, -1))
    return (tile[0, :, None] * moved[0, None]).mean((-1, -2))


def test_noise_has_the_correlations_of_its_sample_and_continues_at_its_borders() -> None:
    """Galerne et al. (2011): the covariance is the autocorrelation of the sample, here summed directly."""
    generator = torch.Generator().manual_seed(0)
    side = 6
    sample = torch.randn(1, 3, side, side, generator=generator)
    sample[:, 1] += 0.8 * sample[:, 0]
    # Longer in one direction.
    sample = (sample + sample.roll(1, -1)) / 2 + 0.4
    tile = spot_noise(sample, torch.randn(1, 1, 512, 512, generator=generator))
    assert tile.shape == (1, 3, 512, 512)
    assert tile.mean((-1, -2)).abs().max() < 0.02
    zero_mean = (sample - sample.mean((-1, -2), keepdim=True))[0]
    for row, column in ((0, 0), (0, 1), (1, 0), (2, 3)):
        before = zero_mean[:, : side - row, : side - column]
        after = zero_mean[:, row:, column:]
        expected = torch.einsum("irc,jrc->ij", after, before) / side**2
        torch.testing.assert_close(covariance(tile, row, column), expected, atol=0.02, rtol=0)


def test_each_picture_of_a_batch_has_its_own_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2, 3, 4, 4, generator=generator)
    noise = torch.randn(1, 1, 32, 32, generator=generator)
    both = spot_noise(samples, noise)
    for each, sample in zip(both, samples, strict=True):
        torch.testing.assert_close(each, spot_noise(sample[None], noise)[0])


def test_shading_across_a_sample_is_no_structure() -> None:
    generator = torch.Generator().manual_seed(0)
    grain = 0.02 * torch.randn(2, 3, 12, 12, generator=generator)
    places = torch.linspace(0, 1, 12)
    shading = 0.2 * places + 0.3 * places[:, None] ** 2 - 0.1 * places * places[:, None]
    axes = quadratic_axes(12)
    with_shading = without_trend(grain + shading, axes)
    torch.testing.assert_close(with_shading, without_trend(grain, axes), atol=1e-6, rtol=0)
    # Six of 144 degrees of freedom are gone.
    assert without_trend(grain, axes).square().mean() > 0.9 * grain.square().mean()
