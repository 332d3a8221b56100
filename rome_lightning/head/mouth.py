"""Tongue and teeth of a head."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_lightning.head.model import HeadModel
from rome_lightning.head.topology import face_components

ROOT_FROM, ROOT_AT = 0.006, 0.009
"""Distance from the edge of the lower teeth at which roots start to fade in, and are complete, metres."""


def mouth_parts(head: HeadModel) -> tuple[Bool[Tensor, " v"], Bool[Tensor, " v"], Bool[Tensor, " v"]]:
    """Vertices of the tongue, the upper and the lower teeth; none on heads without."""
    return _mouth_parts(head, head.template.device)


@lru_cache(maxsize=4)
def _mouth_parts(
    head: HeadModel, device: torch.device
) -> tuple[Bool[Tensor, " v"], Bool[Tensor, " v"], Bool[Tensor, " v"]]:
    """Cached, because every avatar needs them."""
    labels = torch.from_numpy(face_components(head.faces.cpu().numpy()))
    pieces = torch.zeros(head.num_vertices, dtype=torch.long)
    pieces[head.faces.cpu().flatten()] = labels.repeat_interleave(3)
    mouth, outside = head.region("mouth").cpu(), ~head.region("mouth", "eyes").cpu()
    # Teeth and tongue are pieces of their own; what hangs together with the face is the cavity.
    loose = mouth & ~torch.isin(pieces, pieces[outside].unique())
    tongue = torch.zeros_like(loose)
    if "tongueOut" in head.expression_names:
        move = head.basis[head.num_shape + head.expression_names.index("tongueOut")].view(-1, 3).norm(dim=-1)
        tongue[: head.num_carriers] = move.cpu() > 1e-3
        tongue = loose & torch.isin(pieces, pieces[loose & tongue].unique())
    teeth = loose & ~tongue
    height = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 1].cpu()
    middle = height[teeth].mean()
    upper = torch.zeros_like(teeth)
    for piece in pieces[teeth].unique():
        of = teeth & (pieces == piece)
        upper |= of & (height[of].mean() > middle)
    return tongue.to(device), upper.to(device), (teeth & ~upper).to(device)


def lower_roots(head: HeadModel) -> Float[Tensor, " v"]:
    """1 on the roots of the lower teeth, 0 elsewhere, linear between; all 0 on heads without teeth."""
    _, _, lower = mouth_parts(head)
    height = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 1]
    if not bool(lower.any()):
        return torch.zeros_like(height)
    return ((height[lower].max() - height - ROOT_FROM) / (ROOT_AT - ROOT_FROM)).clamp(0, 1) * lower
