"""Generic colours of what a photograph seldom shows: eyeballs and the inside of the mouth."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_lightning.head.model import HeadModel
from rome_lightning.head.mouth import mouth_parts
from rome_lightning.renderer import UVLayout

SCLERA = (0.72, 0.65, 0.61)
IRIS = (0.33, 0.23, 0.16)
PUPIL = (0.05, 0.04, 0.04)
TEETH = (0.745, 0.66, 0.595)
GUMS = (0.68, 0.36, 0.36)
TONGUE = (0.68, 0.37, 0.36)
CAVITY = (0.34, 0.13, 0.12)
"""sRGB colours."""
DARK_FROM, DARK_AT = 0.004, 0.045
"""Distance behind the front teeth at which the mouth starts to darken, and at which it is darkest, metres."""
DARKNESS = 0.4
"""Share of the brightness lost there."""
FLOOR = 0.012
"""Distance below the edge of the lower teeth from which the cavity is its floor, metres."""
CROWN = 0.0095
"""Height of the teeth above the gums, metres."""
TOOTH_EDGES = (0.0, 0.0082, 0.0148, 0.0222, 0.0290, 0.0358, 0.0455)
"""Where one tooth ends and the next begins, metres along the arch from its middle."""
GAP, GAP_DARKNESS = 0.0012, 0.45
"""Half the width of the shadow between two teeth, metres, and its darkness."""
ARCH = 0.7
"""Length of an arch on the texture if the arch were as long as the texture is wide, metres: texels as wide as
shadows would show some of them and miss others."""

TONGUE_EDGE = 0.4
"""Share of the tongue's half width beyond which it fades to the colour of the cavity."""
FURROW, FURROW_DARKNESS = 0.0015, 0.1
"""Half the width of the furrow along the tongue, metres, and its darkness."""
BACK_FROM, BACK_AT, BACK_DARKNESS = 0.008, 0.038, 0.5
"""Distance behind the front teeth at which a tongue starts to lie in the shadow of the palate, and lies in it
completely, metres; its darkness."""
MOLARS_FROM, MOLARS_AT, MOLARS_DARKNESS = 0.012, 0.03, 0.6
"""Distance behind the front teeth at which the shadow of the cheeks starts and is complete, metres; its
darkness."""

_IRIS_RADIUS, _PUPIL_RADIUS = 0.0059, 0.0024
"""Metres."""


def interior_colours(
    head: HeadModel, layout: UVLayout, positions: Float[Tensor, "3 s s"]
) -> Float[Tensor, "3 s s"]:
    """Colours of eyeballs, teeth, tongue and cavity at every texel, RGB in [0, 1]; elsewhere arbitrary.

    Args:
        head: with regions ``mouth`` and ``eyes``.
        layout: texels of the texture.
        positions: of each texel on the mean head, metres.
    """
    tongue, upper, lower = (part.to(positions.dtype) for part in mouth_parts(head))
    tongue, upper, lower = layout.gather(torch.stack([tongue, upper, lower], dim=-1)[None])[0] > 0.5
    texels = _cavity_colours(positions, lower)
    front = float(positions[2, upper | lower].max()) if bool((upper | lower).any()) else 0.0
    texels[:, tongue] = _tongue_colours(positions[:, tongue], front)
    for teeth, is_upper in ((upper, True), (lower, False)):
        texels[:, teeth] = _teeth_colours(positions[:, teeth], front, is_upper, ARCH / layout.size)
    inside = layout.gather(head.region("mouth").cpu().float()[None, :, None])[0, 0] > 0.5
    behind = front - positions[2, inside]
    texels[:, inside] *= 1 - DARKNESS * ((behind - DARK_FROM) / (DARK_AT - DARK_FROM)).clamp(0, 1)
    eyes = layout.gather(head.region("eyes").cpu().float()[None, :, None])[0, 0] > 0.5
    texels[:, eyes] = _eye_colours(head, positions[:, eyes].T).T
    return texels


def _cavity_colours(positions: Float[Tensor, "3 s s"], lower: Bool[Tensor, "s s"]) -> Float[Tensor, "3 s s"]:
    """Colours of a cavity whose floor, below the edge of the lower teeth, is as light as gums."""
    cavity, gums = (torch.tensor(colour)[:, None, None].expand_as(positions) for colour in (CAVITY, GUMS))
    if not bool(lower.any()):
        return cavity.clone()
    below = positions[1, lower].max() - positions[1]
    return torch.lerp(cavity, gums, (below / FLOOR).clamp(0, 1))


def _tongue_colours(points: Float[Tensor, "3 n"], front: float) -> Float[Tensor, "3 n"]:
    """Colours of a tongue with a furrow, its sides in the shadow of the cheeks, its back in the palate's.

    Args:
        points: on the mean head, metres.
        front: z of the foremost tooth.
    """
    if points.shape[1] == 0:
        return points
    x, _, z = points
    side = ((x.abs() / x.abs().max() - TONGUE_EDGE) / (1 - TONGUE_EDGE)).clamp(0, 1)
    shade = 1 - FURROW_DARKNESS * torch.exp(-((x / FURROW).square()))
    shade = shade * (1 - BACK_DARKNESS * ((front - z - BACK_FROM) / (BACK_AT - BACK_FROM)).clamp(0, 1))
    shaded = torch.tensor(TONGUE)[:, None] * shade
    return torch.lerp(shaded, torch.tensor(CAVITY)[:, None].expand_as(shaded), side)


def _teeth_colours(
    points: Float[Tensor, "3 n"], front: float, is_upper: bool, texel: float
) -> Float[Tensor, "3 n"]:
    """Teeth with shadows between them, and gums.

    Args:
        points: on the mean head, metres.
        front: z of the foremost tooth.
        is_upper: whether they are the upper teeth.
        texel: width of one, metres.
    """
    if points.shape[1] == 0:
        return points
    x, y, z = points
    # From the middle of the arch; where it is visible the chord is close to the arc.
    along = (x.square() + (front - z).square()).sqrt()
    edge = (along[:, None] - torch.tensor(TOOTH_EDGES)).abs().amin(1)
    width = max(GAP, texel)
    shade = 1 - GAP_DARKNESS * GAP / width * (1 - edge / width).clamp(0, 1)
    behind = ((front - z - MOLARS_FROM) / (MOLARS_AT - MOLARS_FROM)).clamp(0, 1)
    shade = shade * (1 - MOLARS_DARKNESS * behind)
    from_edge = y - y.min() if is_upper else y.max() - y
    gums = ((from_edge - CROWN) / 0.001).clamp(0, 1)
    return torch.lerp(
        torch.tensor(TEETH)[:, None] * shade, torch.tensor(GUMS)[:, None].expand(3, len(x)), gums
    )


def _eye_colours(head: HeadModel, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Sclera, iris and pupil by the angle from the gaze direction, at human size for any eyeball."""
    joints = head.joint_template.float().cpu().view(5, 3)
    centres = torch.where(points[:, :1] > 0, joints[3], joints[4])
    gaze = points - centres
    radius = gaze.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    angle = (gaze[:, 2:] / radius).clamp(-1, 1).arccos()

    def within(disc: float) -> Tensor:
        """1 inside a disc of this radius in metres, 0 outside, with a transition of 3 degrees."""
        return (((disc / radius).asin() - angle) / 0.05 + 0.5).clamp(0, 1)

    colours = torch.tensor(SCLERA).expand(len(points), 3)
    for disc, colour in ((_IRIS_RADIUS, IRIS), (_PUPIL_RADIUS, PUPIL)):
        colours = torch.lerp(colours, torch.tensor(colour).expand_as(colours), within(disc))
    return colours
