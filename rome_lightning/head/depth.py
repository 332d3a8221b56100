"""How deep a head is in photographs, and parts of a head by their position."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.head.model import HeadModel
from rome_lightning.head.mouth import lower_roots
from rome_lightning.head.moving import smooth_mask

DEPTH = 0.8
"""Depth behind the eyes in photographs, relative to the head model's. Chosen on 99 turned pairs of video of
19 people: the head model is deeper than most people."""
DEPTH_BEHIND = 0.65
"""The same of scalp and neck behind the ears, on top of it. 0.5 to 0.7 draw turned heads alike, 1 clearly
worse."""
HAIR = 0.006
"""How far forward the scalp is moved, metres, because hair stands in front of it. In the same pairs, hair of
turning heads moved by 4 to 5 mm per radian less than the bare scalp would; 6 and 12 mm draw them alike."""
ROOTS = 0.007
"""How far the roots of the lower teeth are moved back, metres: they would stick out of the chin by up to 6 mm
when the mouth is wide open."""
SOFTNESS = 0.03
"""Distance behind the ears over which the change sets in, metres."""
LIDS = 0.012
"""Largest distance of a lid's vertices from the eyeball, metres."""
SIDE = 0.03
"""Distance from the middle of the face from which it counts as its side, metres."""
PLANE = 0.01
"""Distance from the middle of the ears within which vertices count as in their plane, metres."""


def behind_ears(head: HeadModel, rest: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 1"]:
    """1 on scalp and neck well behind the ears, 0 elsewhere, linear between.

    Args:
        head: whose vertices they are.
        rest: heads at rest, metres.
    """
    distance = rest[:, head.region("ears"), 2].mean(1, keepdim=True) - rest[..., 2]
    movable = head.region("scalp", "neck").to(rest.dtype)
    return ((distance / SOFTNESS).clamp(0, 1) * movable)[..., None]


def ear_plane(head: HeadModel) -> Int[Tensor, " m"]:
    """Vertices of ears and scalp in the plane of the ears on the mean head."""
    depth = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 2]
    near = (depth - depth[head.region("ears")].mean()).abs() < PLANE
    return (near & head.region("ears", "scalp")).nonzero()[:, 0]


def lower_face(head: HeadModel) -> Bool[Tensor, " v"]:
    """Vertices of the face below the eyes, on which no hair grows."""
    height = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 1]
    return head.region("face") & (height < height[head.region("eyes")].min())


def sides_of_face(head: HeadModel) -> Bool[Tensor, " v"]:
    """Vertices of the face that are farther to the side than the corners of a mouth."""
    aside = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 0].abs()
    return head.region("face") & (aside > SIDE)


def around_eyes(head: HeadModel) -> Bool[Tensor, " v"]:
    """Vertices of the face on the lids."""
    mean = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    away = torch.cdist(mean, mean[head.region("eyes")]).amin(1)
    return head.region("face") & (away < LIDS)


def foreshortening(head: HeadModel, rest: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 3"]:
    """Offsets that give heads the depth of photographs, and hair, and keep teeth behind the chin, metres.

    Args:
        head: whose vertices they are.
        rest: heads at rest, metres.

    Departure from ROME: its heads keep FLAME's depth, so the back of the head protrudes too far on a turn.
    """
    eyes, ears = (rest[:, head.region(name), 2].mean(1, keepdim=True) for name in ("eyes", "ears"))
    forward = (1 - DEPTH) * (eyes - rest[..., 2]).clamp_min(0)
    behind = DEPTH * (1 - DEPTH_BEHIND) * (ears - rest[..., 2]).clamp_min(0)
    forward = forward + behind * behind_ears(head, rest)[..., 0]
    forward = forward + HAIR * _hairy(head, rest.device) - ROOTS * lower_roots(head)
    return torch.cat([torch.zeros_like(rest[..., :2]), forward[..., None]], dim=-1)


@lru_cache(maxsize=4)
def _hairy(head: HeadModel, device: torch.device) -> Float[Tensor, " v"]:
    """1 on the scalp, fading to 0 at the hairline. Cached: every step of training asks for it."""
    return smooth_mask(head.region("scalp"), head.edges).to(device)
