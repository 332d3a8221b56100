"""The lower end of an avatar's bust: near the lower border of its first photograph."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar import Avatar
from rome_lightning.export.surface import Cut, Surface, bust_surface, whole_surface
from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel

_DEPTH = 1.5
"""Curvature of the bowl from front to back, 1 / metre."""
_SIDES = (1.0, 6.0)
"""Bounds of its curvature from side to side, 1 / metre."""
_MIDDLE_STRIP = 0.06
"""Half width, metres, of the strip in which the photograph's lower border is searched."""
_CLEARANCE = 0.01
"""Margin, metres, between the bust's end and the unseen part or the mesh's own border."""
_BELOW_CHIN = 0.075
"""Length of neck that is always kept, metres."""


def avatar_surface(avatar: Avatar) -> Surface:
    """The person's bust: as much of neck and shoulders as the first photograph shows, closed below."""
    rest = avatar.rest_mesh().vertices[0].float().cpu()
    head = avatar.model.head
    if not _border(head).any():
        # The head is already closed.
        return whole_surface(head)
    return bust_surface(head, rest, avatar_cut(avatar))


def avatar_cut(avatar: Avatar) -> Cut:
    """Where the first photograph of an avatar ends."""
    rest = avatar.rest_mesh().vertices[0].float().cpu()
    return photograph_cut(avatar.model.head, rest, _shown(avatar))


def neck_surface(avatar: Avatar) -> Surface:
    """The person's head with as much of the neck as is always kept, closed below."""
    head, rest = avatar.model.head, avatar.rest_mesh().vertices[0].float().cpu()
    if not _border(head).any():
        return whole_surface(head)
    return bust_surface(head, rest, neck_cut(head, rest))


@torch.no_grad()
def _shown(avatar: Avatar) -> Bool[Tensor, " v"]:
    """Vertices that lie on the person in the first photograph, seen or hidden."""
    photo = avatar.photos[slice(0, 1)]
    mesh = avatar.posed_mesh(photo.params)
    points = avatar.model.project(mesh.vertices, photo.params, photo.image_size)[..., :2]
    height, width = photo.image_size
    # Pixel centres to the corners of the picture.
    grid = 2 * (points + 0.5) / torch.tensor([width, height], device=points.device) - 1
    matte = F.grid_sample(photo.foreground_mask, grid[:, None], align_corners=False)
    return matte[0, 0, 0].cpu() > 0.5


def photograph_cut(head: HeadModel, rest: Float[Tensor, "v 3"], shown: Bool[Tensor, " v"]) -> Cut:
    """The bowl through the lowest and the outermost points of the chest and the shoulders that are shown.

    Args:
        head: the head model.
        rest: the person's vertices at rest, metres.
        shown: vertices that the photograph shows.
    """
    body = head.region("neck", "shoulders").cpu()
    faces = head.faces.cpu()
    x, y, z = rest.unbind(-1)
    middle = float(z[body].mean())
    front = vertex_normals(rest[None], faces)[0, :, 2] > 0.3
    chest = body & front & shown & (x.abs() < _MIDDLE_STRIP)
    rim = _border(head)
    bottom = float(y[chest].min()) + _CLEARANCE if chest.any() else float(y[rim].max())
    outer = body & shown & (y > bottom)
    if outer.any():
        reach = x[outer].abs().quantile(0.98)
        side = float((y[outer][x[outer].abs() > 0.9 * reach].max() - bottom) / reach.square())
    else:
        side = _SIDES[1]
    side = min(max(side, _SIDES[0]), _SIDES[1])
    return _above_border(head, rest, Cut(min(bottom, _lowest_end(head, rest)), side, _DEPTH, middle))


def neck_cut(head: HeadModel, rest: Float[Tensor, "v 3"]) -> Cut:
    """The bowl that leaves no more of the neck than is always kept.

    Args:
        head: the head model.
        rest: the person's vertices at rest, metres.
    """
    middle = float(rest[head.region("neck", "shoulders").cpu(), 2].mean())
    return _above_border(head, rest, Cut(_lowest_end(head, rest), _SIDES[1], _DEPTH, middle))


def _lowest_end(head: HeadModel, rest: Float[Tensor, "v 3"]) -> float:
    """Height at which a bust ends at the latest."""
    return float(rest[head.region("face").cpu(), 1].min()) - _BELOW_CHIN


def _above_border(head: HeadModel, rest: Float[Tensor, "v 3"], cut: Cut) -> Cut:
    """The cut, raised where it reaches the border of the head's mesh."""
    lowest = dataclasses.replace(cut, bottom=0.0).above(rest[_border(head)]).max()
    return dataclasses.replace(cut, bottom=max(cut.bottom, float(lowest) + _CLEARANCE))


def _border(head: HeadModel) -> Bool[Tensor, " v"]:
    """Vertices of the open border below; eyes and mouth have borders too, which are no concern here."""
    faces = head.faces.cpu()
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    found, times = edges.unique(dim=0, return_counts=True)
    border = torch.zeros(head.num_vertices, dtype=torch.bool)
    border[found[times == 1].flatten()] = True
    return border & head.region("neck", "shoulders").cpu()
