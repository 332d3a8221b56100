"""Filling a partly observed texture from its surroundings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.renderer import opencv
from rome_lightning.renderer.pooling import halved


def push_pull(
    texture: Float[Tensor, "b c h w"], weight: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Fill texels of low weight from the finest scale at which something was observed.

    Args:
        texture: any values; ignored where ``weight`` is 0.
        weight: confidence in [0, 1] per texel.

    Returns:
        The texture where the weight is 1, a smooth continuation elsewhere; 0 if nothing was observed.

    Source: Gortler et al., The Lumigraph, 1996, sec. 3.5 (pull-push).
    """
    if opencv.can_filter(texture, weight):
        return opencv.filled(texture, weight)
    if min(texture.shape[-2:]) == 1:
        total = weight.sum((-1, -2), keepdim=True)
        return ((texture * weight).sum((-1, -2), keepdim=True) / total.clamp_min(1e-6)).expand_as(texture)
    # The weight saturates on the way down, so that many weak observations count as one good one.
    height, width = (side // 2 * 2 for side in texture.shape[-2:])
    total = halved(weight[..., :height, :width]) * 4
    sums = halved((texture * weight)[..., :height, :width]) * 4
    coarse = push_pull(sums / total.clamp_min(1e-6), total.clamp_max(1))
    filled = F.interpolate(coarse, size=texture.shape[-2:], mode="bilinear", align_corners=False)
    return torch.lerp(filled, texture, weight)
