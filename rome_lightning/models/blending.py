"""Carried photograph, texture and the network's corrections to one picture."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.models.carrying import (
    BESIDE,
    CARRIED_HAIR,
    IN_MOUTH,
    KNOWN,
    LOOSE,
    MATTE,
    OWN_VIEW,
    RGB,
    VISIBILITY,
)
from rome_lightning.renderer import push_pull
from rome_lightning.renderer.morphology import dilate, erode, opened
from rome_lightning.renderer.pooling import halved, smoothed

NUM_NETWORK_LAYERS = 8
"""Channels of the carried photographs that the network sees: all up to the visibility."""
NUM_CORRECTIONS = 5
"""Outputs of the network: three of the colour, one of the choice of source, one of the matte."""
SURE = 0.98
"""Largest share of either source before the network corrects it, so that the logit is finite."""
OPAQUE = 0.995
"""Largest opacity before the correction, likewise."""
GAIN = 4.0
"""Logits to a unit of the network's output."""
UNSEEN_BOUND = 1.5
"""Largest change of the logits of choice and matte where the mesh shows what no photograph does: it stays
opaque, and what the photograph has there, which is something else, is not taken."""
SEEN_BOUND = 6.0
"""The same where a photograph shows it, whose matte decides."""
BESIDE_BOUND = 2.0
"""Largest growth of the matte's logit beside the mesh: hair may be added, but no second outline of a face."""
GAP = 0.025
"""Half the width of gaps beside hair that are filled with hair, share of the picture's width."""
RIM = 0.008
"""Width of the outline of the mesh, share of the picture's width."""
SLIVER = 0.006
"""Half the width of strips and gaps that are taken for faults, share of the picture's width."""
REPEATED, APART = 0.008, 0.03
"""How much nearer to the source's mesh, and farther from it, than to the driven mesh a carried pixel may have
been, image widths: what comes from inside the mesh repeats the face beside it."""
HANGING = 0.06
"""The same for hair that hangs over neck and shoulders."""


def blend(
    corrections: Float[Tensor, "b 5 h w"],
    texture: Float[Tensor, "b 3 h w"],
    layers: Float[Tensor, "b 11 h w"],
    mesh_mask: Bool[Tensor, "b 1 h w"],
    distance: Float[Tensor, "b 1 h w"],
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
    """Colour (not limited to [0, 1]) and opacity of a picture.

    Without corrections it is a usable picture: the photograph where it shows the point, the completed texture
    elsewhere; the photograph's matte where it tells of the point, opaque elsewhere on the mesh.

    Args:
        corrections: of the network; 0 for none.
        texture: colour of the texture as each pixel sees it, continued beyond the mesh.
        layers: carried photographs, see ``carry``.
        mesh_mask: pixels whose centre the mesh covers.
        distance: to the mesh, image widths.
    """
    shown = share_of_photo(layers, mesh_mask)
    bound = torch.lerp(torch.full_like(shown, UNSEEN_BOUND), torch.full_like(shown, SEEN_BOUND), shown)
    preference, change = (GAIN * corrections[:, 3:]).split(1, dim=1)
    choice = torch.sigmoid(torch.logit(shown.clamp(1 - SURE, SURE)) + _bounded(preference, bound))
    rgb = torch.lerp(texture, layers[:, RGB], choice) + corrections[:, :3]
    # No matte smooths the edges of teeth and tongue.
    smooth = smoothed(rgb)
    rgb = torch.lerp(rgb, smooth, layers[:, IN_MOUTH] * (1 - choice))
    # Beyond the border of the photograph the mesh is all there is.
    on_mesh = torch.lerp(torch.ones_like(shown), layers[:, MATTE], layers[:, KNOWN])
    # Hair that hangs over neck and shoulders belongs to neither: it may leave the mesh.
    near = same_side(layers[:, BESIDE], distance, HANGING, HANGING)
    loose = torch.maximum(same_side(layers[:, BESIDE], distance), layers[:, LOOSE] * near)
    beside = layers[:, MATTE] * layers[:, KNOWN] * loose
    # No point of the outline is seen well: the photograph's matte draws it, or background stays as a line.
    prior = torch.where(_inner(mesh_mask), on_mesh, beside)
    # In its own view a photograph shows no gap that is not there.
    hair = (layers[:, CARRIED_HAIR] * torch.where(mesh_mask, shown, beside)).detach()
    gap = (
        hair_gaps(torch.where(mesh_mask, 1.0, prior.detach()), hair) * ~mesh_mask * (1 - layers[:, OWN_VIEW])
    )
    prior = prior + (1 - prior) * gap
    rgb = torch.lerp(rgb, _hair_colour(layers[:, RGB], hair), gap)
    # Gradients pass it by: which of two nearly equal pixels is the larger is decided by rounding.
    drawn = soft_edges(without_slivers(prior, shown, mesh_mask), mesh_mask, layers[:, OWN_VIEW])
    prior = prior + (drawn - prior).detach()
    prior = prior.clamp(1 - OPAQUE, OPAQUE)
    beside_mesh = _bounded(change.clamp_min(0), BESIDE_BOUND) + change.clamp_max(0)
    change = torch.where(mesh_mask, _bounded(change, bound), beside_mesh * (1 - gap))
    return rgb, torch.sigmoid(torch.logit(prior) + change)


def hair_gaps(opacity: Float[Tensor, "b 1 h w"], hair: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """How far each pixel lies in a narrow gap beside hair, [0, 1].

    When a jaw turns away, it uncovers hair that it hid in the photograph.

    Args:
        opacity: of each pixel, [0, 1].
        hair: the part of it that is hair.
    """
    # The result is smooth, so half the resolution is enough.
    coarse, coarse_hair = _halved(torch.cat([opacity, hair], dim=1)).split(1, dim=1)
    reach = max(1, round(GAP * int(coarse.shape[-1])))
    closed = erode(dilate(coarse, reach), reach)
    gaps = (closed - coarse).clamp_min(0) * dilate(coarse_hair, reach)
    # Closing with squares leaves corners.
    gaps = smoothed(gaps, reach // 2)
    return F.interpolate(gaps, opacity.shape[-2:], mode="bilinear", align_corners=False)


def _hair_colour(rgb: Float[Tensor, "b 3 h w"], hair: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The colour of hair, continued smoothly around it."""
    sums, weight = _halved(torch.cat([rgb * hair, hair], dim=1)).split([3, 1], dim=1)
    filled = push_pull(sums / weight.clamp_min(1e-6), weight.clamp(0, 1))
    return F.interpolate(filled, rgb.shape[-2:], mode="bilinear", align_corners=False)


def _halved(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """The picture at half its size; odd sizes are rounded up."""
    height, width = (int(side) for side in image.shape[-2:])
    if height % 2 or width % 2:
        image = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    return halved(image)


def without_slivers(
    opacity: Float[Tensor, "b 1 h w"], shown: Float[Tensor, "b 1 h w"], mesh_mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """Opacity without lines between what the photographs show of the mesh and what they do not.

    A strip that no photograph shows, beside mesh that is not there according to the matte, is not there
    either; a thin gap beside what no photograph shows is a fault of the outline.

    Args:
        opacity: of each pixel, [0, 1].
        shown: how well the photographs show it, [0, 1].
        mesh_mask: pixels whose centre the mesh covers.
    """
    reach = max(1, round(SLIVER * int(opacity.shape[-1])))
    mesh = mesh_mask.to(opacity.dtype)
    unseen = mesh * (1 - shown)
    wide = opened(unseen, reach)
    flank = 1 - dilate((1 - opacity) * mesh * shown, reach + 1)
    opacity = torch.lerp(opacity, torch.minimum(opacity, flank), unseen - wide)
    opacity = opacity - (opacity - opened(opacity, reach)) * mesh * dilate(unseen - wide, reach)
    clear = 1 - opacity
    gap = (clear - opened(clear, reach)) * mesh * dilate(wide, 2 * reach)
    return opacity + gap


def soft_edges(
    opacity: Float[Tensor, "b 1 h w"],
    mesh_mask: Bool[Tensor, "b 1 h w"],
    own_view: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b 1 h w"]:
    """Opacity whose steps at the outline of the mesh are two pixels wide, as in a photograph, not stairs.

    Args:
        opacity: of each pixel, [0, 1].
        mesh_mask: pixels whose centre the mesh covers.
        own_view: 1 where a photograph's matte draws the outline, which is as soft as it should be.
    """
    mesh = mesh_mask.to(opacity.dtype)
    values = torch.cat([opacity, mesh], dim=1)
    mean, covered = smoothed(values).split(1, dim=1)
    return torch.where((covered > 0) & (covered < 1), torch.lerp(mean, opacity, own_view), opacity)


def _bounded(logits: Float[Tensor, "b 1 h w"], bound: Tensor | float) -> Float[Tensor, "b 1 h w"]:
    """Small values as they are, large ones at most ``bound`` in size."""
    return bound * (logits / bound).tanh()


def _inner(mesh_mask: Bool[Tensor, "b 1 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """The mesh without its outline."""
    reach = max(1, round(RIM * int(mesh_mask.shape[-1])))
    return dilate((~mesh_mask).float(), reach) < 0.5


def share_of_photo(
    layers: Float[Tensor, "b 11 h w"], mesh_mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """How far a pixel is taken from the photograph before the network corrects it, [0, 1]."""
    return torch.where(mesh_mask, layers[:, VISIBILITY], 1.0) * layers[:, KNOWN]


def same_side(
    beside: Float[Tensor, "b 1 h w"],
    distance: Float[Tensor, "b 1 h w"],
    repeated: float = REPEATED,
    apart: float = APART,
) -> Float[Tensor, "b 1 h w"]:
    """1 where a carried pixel lay as far beside the source's mesh as beside the driven one, else less."""
    width = torch.where(beside < distance, repeated, apart)
    return torch.exp(-(((beside - distance) / width).square()))
