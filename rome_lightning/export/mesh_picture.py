"""Images of the exported textured mesh: a second way to render an avatar, without its networks."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar import Avatar
from rome_lightning.export.person import Person, rigged_person
from rome_lightning.export.surface import whole_surface
from rome_lightning.renderer import render_texture
from rome_lightning.types import HeadParams

_FINER = 2
"""Samples per pixel and direction, for smooth outlines."""

_PEOPLE: WeakKeyDictionary[Avatar, Person] = WeakKeyDictionary()
"""Of the avatars in use: completing a texture takes a second, drawing it a tenth."""


@torch.no_grad()
def draw_mesh(
    avatar: Avatar, driver: HeadParams, image_size: tuple[int, int], batch_size: int = 8
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]]:
    """Render the person's bust like programs that open the GLB, in batches.

    Args:
        avatar: the person.
        driver: expression, pose and camera; the driver's own shape is not used.
        image_size: height and width, pixels.
        batch_size: frames drawn at once.

    Yields:
        Colours and opacity, [0, 1].
    """
    if avatar not in _PEOPLE:
        _PEOPLE[avatar] = rigged_person(avatar)
    model, person = avatar.model, _PEOPLE[avatar]
    surface = person.surface or whole_surface(model.head)
    device = avatar.code.shape.device
    faces, uvs = surface.faces.to(device), surface.uvs.to(device)
    fine = (_FINER * image_size[0], _FINER * image_size[1])
    for start in range(0, len(driver), batch_size):
        part = driver[slice(start, start + batch_size)]
        own = HeadParams(**vars(part) | {"shape": avatar.code.shape.expand(len(part), -1)})
        vertices = avatar.posed_mesh(part).vertices
        points = model.project(vertices, own, fine)
        carried = torch.stack([surface.carry(each) for each in points]).to(device)
        ids = model.rasterizer.face_ids(carried, faces, fine)
        mask = (ids >= 0)[:, None].float()
        rgb = render_texture(carried, faces, ids, uvs, faces, person.colour_texture[None].to(device)) * mask
        total = F.avg_pool2d(mask, _FINER)
        yield F.avg_pool2d(rgb, _FINER) / total.clamp_min(1 / _FINER**2), total
