"""How deep a head is in a photograph taken from near."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_lightning.head.model import HeadModel

DEPTH = 0.65
"""Depth of scalp and neck behind the ears in pictures, against the head model's. The model's camera has no
perspective, which at a distance of 0.6 m shrinks the back of a head by a fifth, and the open head is deeper
than the mean of people. Chosen on turned heads of video: 0.5 to 0.7 draw them alike, 1 clearly worse."""
SOFTNESS = 0.03
"""Distance behind the ears over which the change sets in, metres."""

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
    """Vertices of ears and scalp that are as far back as the ears on the mean head."""
    depth = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 2]
    near = (depth - depth[head.region("ears")].mean()).abs() < PLANE
    return (near & head.region("ears", "scalp")).nonzero()[:, 0]


def foreshortening(head: HeadModel, rest: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 3"]:
    """Offsets that give heads the depth that photographs show, metres.

    Args:
        head: whose vertices they are.
        rest: heads at rest, metres.

    Departure from ROME: its heads keep the depth of FLAME, whose back comes out too far on a turn.
    """
    distance = rest[:, head.region("ears"), 2].mean(1, keepdim=True) - rest[..., 2]
    forward = (1 - DEPTH) * distance.clamp_min(0)[..., None] * behind_ears(head, rest)
    return torch.cat([torch.zeros_like(rest[..., :2]), forward], dim=-1)
