"""Foreground colours: those of the person without the background."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.renderer import push_pull

MIXED = 0.8
"""Largest share of either in a pixel that counts as mixed."""


def foreground_colour(
    image: Float[Tensor, "b 3 h w"], matte: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """The person's own colours without the background's share, extended beyond the outline.

    Args:
        image: RGB in [0, 1].
        matte: opacity of the person, [0, 1].

    Source: Forte, Approximate fast foreground colour estimation, ICIP 2021, with a pyramid for its blurs.
    """
    # Mixed pixels are excluded: many of them would outweigh a few pure ones.
    foreground = push_pull(image, ((matte - MIXED) / (1 - MIXED)).clamp_min(0))
    background = push_pull(image, ((1 - matte - MIXED) / (1 - MIXED)).clamp_min(0))
    composed = torch.lerp(background, foreground, matte)
    return (foreground + matte * (image - composed)).clamp(0, 1)
