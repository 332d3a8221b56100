"""The canvas of a carried photograph: its channels, and what continues beyond its border."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.renderer import nearest_covered
from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.renderer.nearest_fill import values_of
from rome_lightning.renderer.pooling import smoothed

RGB, MATTE, KNOWN, BESIDE, LOOSE, HAIR, SKIN = (slice(0, 3), *(slice(i, i + 1) for i in range(3, 9)))
"""Channels of ``CarriedPhotos.layers``: colour, opacity of the person, 1 inside the photograph, distance to
the source's mesh in image widths (0 on it), 1 where hair hangs below the ears, 1 on hair, 1 on skin of the
face."""
NUM_STORED = 9
"""Their number."""
MARGIN = 0.03
"""Width of the band beside a photograph's border in which its matte is unsure, image widths: the network that
made it saw repeated pixels there."""
SURELY_BACKGROUND = 0.2
"""Opacity in that band below which it counts as background."""
BAND = 0.15
"""Width of the band around a crop that is filled in advance, image widths."""
BLURRED = 0.03
"""Distance from a photograph's border from which its repeated colours are blurred; the blur, image widths."""
MIRRORED = 0.08
"""Distance from the border at which mirrored pixels have faded to a third, image widths: a lapel that comes
back shows the trick."""
ALIKE = 0.12
"""Difference between blurred colours, RGB, at which mirrored pixels have faded to a third."""


def widened(layers: Float[Tensor, "b 9 h w"]) -> Float[Tensor, "b 9 h2 w2"]:
    """The layers of square crops with ``BAND`` to both sides and below, filled like what photographs lack."""
    band = round(BAND * layers.shape[-1])
    known = layers[:, KNOWN]
    # Of the photograph, whose border may lie within the crop; that of the crop is no border.
    matte = _sure_at_border(layers[:, MATTE], known, layers[:, HAIR])
    layers = F.pad(
        torch.cat([layers[:, RGB], matte, layers[:, 4:]], dim=1), (band, band, 0, band), mode="replicate"
    )
    known = F.pad(known, (band, band, 0, band))
    return _continued(torch.cat([layers[:, :4], known, layers[:, KNOWN.stop :]], dim=1))


def crop_of(canvas: Float[Tensor, "*b h2 w2"]) -> Float[Tensor, "*b h w"]:
    """The crop within ``widened`` layers, as a view."""
    band = canvas.shape[-1] - canvas.shape[-2]
    return canvas[..., :-band, band:-band]


def to_canvas(
    place: Float[Tensor, "b n 2 h w"], layers: Float[Tensor, "b n 9 h2 w2"]
) -> Float[Tensor, "b n 2 h w"]:
    """Positions in ``widened`` layers, [-1, 1], of fractions of a crop's width and height."""
    height, width = layers.shape[-2:]
    side = 2 * height - width
    x = side / width * (2 * place[:, :, 0] - 1)
    y = 2 * side / height * place[:, :, 1] - 1
    return torch.stack([x, y], dim=2)


def sampled_beyond(
    layers: Float[Tensor, "b 9 h w"], places: Float[Tensor, "b h w 2"]
) -> tuple[Float[Tensor, "b 9 h w"], Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """``_sampled``, with opacity and ``KNOWN`` of what continues beyond the layers, see ``beyond_border``."""
    sampled = _sampled(layers, places)
    x, y = places[:, None, ..., 0], places[:, None, ..., 1]
    within_rows, within_columns = y.abs() <= 1, x.abs() <= 1
    under = (y > 1).to(layers.dtype)
    aside = (within_rows & ~within_columns).to(layers.dtype)
    matte, known = beyond_border(sampled, under, aside)
    inside = (within_rows & within_columns).to(layers.dtype)
    known = sampled[:, KNOWN] * torch.lerp(known, torch.ones_like(known), inside)
    return sampled, torch.lerp(matte, sampled[:, MATTE], inside), known


def _sampled(layers: Float[Tensor, "b c h w"], places: Float[Tensor, "b h w 2"]) -> Float[Tensor, "b c h w"]:
    """Sample layers at positions in [-1, 1]; NaN at positions that are not finite, which skips the step."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    # At such positions the CPU kernel reads outside the image's memory. A sum is finite only if all are.
    is_picture = places.device.type == "cpu" and not torch.is_grad_enabled()
    if is_traced or (is_picture and math.isfinite(places.sum())):
        return F.grid_sample(layers, places, padding_mode="border", align_corners=False)
    safe = places.nan_to_num(0.0, 0.0, 0.0)
    sampled = F.grid_sample(layers, safe, padding_mode="border", align_corners=False)
    return torch.where(places.isfinite().all(-1)[:, None], sampled, torch.nan)


def _continued(layers: Float[Tensor, "b 9 h w"]) -> Float[Tensor, "b 9 h w"]:
    """The layers of photographs, continued beyond the photograph's border.

    Colours are mirrored at the border where that shows the same part of the person in nearly the same colour;
    elsewhere the border's own colour continues and blurs, since repeated pixels would draw streaks.
    """
    height, width = layers.shape[-2:]
    known = layers[:, KNOWN]
    nearest, distance = nearest_covered(known[:, 0] > 0.5)
    rows = torch.arange(height, device=nearest.device)[:, None]
    columns = torch.arange(width, device=nearest.device)
    row, column = nearest // width, nearest % width
    under = (rows > row)[:, None].to(known.dtype)
    aside = (rows == row)[:, None].to(known.dtype) * (1 - known)
    repeated = values_of(nearest, layers)
    matte, continued = beyond_border(repeated, under, aside)
    hair, skin = (repeated[:, channel] * continued for channel in (HAIR, SKIN))
    blurred = _blurred(layers)
    mirror_row, mirror_column = (
        (2 * row - rows).clamp(0, height - 1),
        (2 * column - columns).clamp(0, width - 1),
    )
    mirror = (mirror_row * width + mirror_column).int()
    mirrored, mirrored_blurred, border = (
        values_of(mirror, layers),
        values_of(mirror, blurred),
        values_of(nearest, blurred),
    )
    rgb = torch.lerp(repeated[:, RGB], border, (distance[:, None] / BLURRED).clamp_max(1))
    difference = (mirrored_blurred - border).square().sum(1, keepdim=True) / ALIKE**2
    difference = difference + (distance[:, None] / MIRRORED).square()
    rgb = torch.lerp(rgb, mirrored[:, RGB], _same_part(mirrored, repeated) * torch.exp(-difference))
    repeated = torch.cat(
        [rgb, matte, continued, layers[:, BESIDE], repeated[:, LOOSE] * under, hair, skin], dim=1
    )
    return torch.lerp(repeated, layers, known)


def _blurred(layers: Float[Tensor, "b 9 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The colours of the person in photographs, averaged over squares of ``BLURRED``."""
    weight = layers[:, MATTE] * layers[:, KNOWN] + 1e-3
    reach = max(1, round(BLURRED / 2 * layers.shape[-1]))
    sums = smoothed(smoothed(torch.cat([layers[:, RGB] * weight, weight], dim=1), reach), reach)
    return sums[:, :3] / sums[:, 3:]


def _same_part(one: Float[Tensor, "b 9 h w"], other: Float[Tensor, "b 9 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Whether pixels of two layers show the same part of a person, [0, 1]."""
    hair, skin = (1 - (one[:, part] - other[:, part]).abs() for part in (HAIR, SKIN))
    return one[:, MATTE] * one[:, KNOWN] * hair * skin


def _sure_at_border(
    matte: Float[Tensor, "b 1 h w"], known: Float[Tensor, "b 1 h w"], hair: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """The matte with the body's opacity from inside ``MARGIN`` wherever the band is not background.

    Hair is translucent there too, and what shows between strands is not labelled hair.
    """
    reach = round(MARGIN * matte.shape[-1])
    inner, body = erode(known, reach), matte * (1 - dilate(hair, reach))
    inside = values_of(nearest_covered(inner[:, 0] > 0.5)[0], body)
    there = (body / SURELY_BACKGROUND).clamp_max(1) * known * (1 - inner)
    return torch.maximum(matte, inside * there)


def beyond_border(
    layers: Float[Tensor, "*b 9 h w"], under: Float[Tensor, "*b 1 h w"], aside: Float[Tensor, "*b 1 h w"]
) -> tuple[Float[Tensor, "*b 1 h w"], Float[Tensor, "*b 1 h w"]]:
    """Opacity and ``KNOWN`` of pixels beyond the border of a photograph.

    Otherwise shoulders would end at the border with a step to the mesh's own outline. A body continues to the
    sides and downwards, and hanging hair downwards. Background continues to the sides only, since a body is
    wider farther down. A head that the border cuts does not continue: there the mesh knows better.

    Args:
        layers: of the nearest pixel of the photograph.
        under: 1 below the photograph.
        aside: 1 beside it.
    """
    matte, loose, hair, skin = (layers[..., channel, :, :] for channel in (MATTE, LOOSE, HAIR, SKIN))
    bare = (1 - hair) * (1 - skin)
    # Half-covered pixels at the border are strands of hair.
    body = (2 * matte - 1).clamp_min(0) * bare
    hanging = loose * matte
    return torch.maximum(body * (under + aside), hanging * under), (body + hanging) * under + bare * aside
