"""Adversarial losses of the discriminator and the generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator(
    real_scores: Float[Tensor, "b 1 p q"], fake_scores: Float[Tensor, "b 1 p q"]
) -> Float[Tensor, ""]:
    """Hinge loss that the discriminator minimizes.

    ``mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake))``

    Args:
        real_scores: of real images, unbounded.
        fake_scores: of predictions detached from the generator, unbounded.

    Source: ROME sec. 3.4, L_adv (after Lim and Ye, Geometric GAN, 2017, eq. 25).
    """
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def hinge_generator(fake_scores: Float[Tensor, "b 1 p q"]) -> Float[Tensor, ""]:
    """The generator's loss: ``-mean D(fake)``.

    Args:
        fake_scores: of predictions, unbounded.

    Source: ROME sec. 3.4, L_adv (after Lim and Ye, Geometric GAN, 2017, eq. 25).
    """
    return -fake_scores.mean()


def feature_matching(real_features: Sequence[Tensor], fake_features: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean absolute difference of discriminator features, averaged over the layers.

    Args:
        real_features: of real images, one tensor per layer; no gradient flows into them.
        fake_features: of predictions, in the same order.

    Source: ROME's release (after Wang et al., pix2pixHD, 2018, eq. 4).
    """
    terms = [(f - r.detach()).abs().mean() for r, f in zip(real_features, fake_features, strict=True)]
    return torch.stack(terms).mean()
