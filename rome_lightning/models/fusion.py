"""Fuse several photographs of one person: each fills in what the others do not show."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.models.texture import Observation
from rome_lightning.renderer import UVLayout

_POOR, _GOOD = 0.0, 0.05
"""Visibility in the first photograph up to which others are used, and from which they are not: mouths and
eyes of two expressions do not mix."""
_SHARPNESS = 4
"""Exponent of the visibility in the weights: the best view of a point should win, not the mean."""
_LEAST_SEEN, _WELL_SEEN = 0.5, 0.9
"""Visibility from which further photographs get weight, and full weight: near their outlines, where only
they would contribute, the surface is least certain."""
_MAX_LOG_GAIN = 0.5
"""Bound on the log correction of a photograph's exposure and white balance."""
_LEAST_OVERLAP = 0.002
"""Share of the texture that two photographs must both show well to compare their exposures."""


def texels_of_the_head(head: HeadModel, layout: UVLayout) -> Float[Tensor, "1 1 s s"]:
    """1 on texels of face, ears and scalp, 0 on neck and shoulders, soft at the border.

    Tracking guesses the shoulders from the head's rotation. The guess for a single photograph is harmless,
    because that photograph is projected through it, but the guesses for two do not agree.
    """
    return layout.gather(head.region("face", "ears", "eyes", "mouth", "scalp").float()[None, :, None])


def fuse(seen: Observation, trusted: Float[Tensor, "1 1 s s"] | float = 1.0) -> Observation:
    """Fuse the observed colours of several photographs, each point mostly from its best view.

    Args:
        seen: in each photograph of the person.
        trusted: weight of all photographs but the first, [0, 1]; see ``texels_of_the_head``.
    """
    balanced = seen.colour * _gains(seen.colour, seen.visibility)
    visibility = trusted_visibility(seen, trusted)
    best = visibility.amax(0, keepdim=True)
    # Where no photograph shows anything the colour is meaningless, but must stay finite.
    weight = (visibility / best.clamp_min(1e-8)).pow(_SHARPNESS)
    values = torch.cat([balanced, seen.hair], dim=1)
    mixed = (values * weight).sum(0, keepdim=True) / weight.sum(0, keepdim=True).clamp_min(1e-8)
    unhidden, own_only = (each.amax(0, keepdim=True) for each in (seen.unhidden, seen.own_only))
    return Observation(mixed[:, :3].clamp(0, 1), best, mixed[:, 3:], unhidden, own_only)


def trusted_visibility(
    seen: Observation, trusted: Float[Tensor, "1 1 s s"] | float = 1.0
) -> Float[Tensor, "n 1 s s"]:
    """Visibility of each texel in each photograph, [0, 1]; others count only where the first shows nothing.

    Args:
        seen: in each photograph of the person.
        trusted: weight of all photographs but the first, [0, 1].
    """
    first = seen.visibility[:1]
    sure = ((seen.visibility[1:] - _LEAST_SEEN) / (_WELL_SEEN - _LEAST_SEEN)).clamp(0, 1)
    others = sure * trusted * (1 - ((first - _POOR) / (_GOOD - _POOR)).clamp(0, 1))
    return torch.cat([first, others])


def _gains(
    colour: Float[Tensor, "n 3 s s"], visibility: Float[Tensor, "n 1 s s"]
) -> Float[Tensor, "n 3 1 1"]:
    """Gain per channel that matches each photograph to the first, from texels that both show."""
    both = (visibility * visibility[:1]).square()
    amount = both.mean((1, 2, 3))[:, None]
    ratio = torch.log((colour[:1] + 0.02) / (colour + 0.02))
    # Two expressions do not match point by point: bounding the ratios keeps teeth and lips from dominating.
    mean = (ratio.clamp(-1, 1) * both).mean((2, 3)) / amount.clamp_min(1e-8)
    gain = torch.where(amount > _LEAST_OVERLAP, mean.clamp(-_MAX_LOG_GAIN, _MAX_LOG_GAIN), 0.0)
    return gain.exp()[..., None, None]
