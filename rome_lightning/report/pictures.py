"""Rows of images that show an avatar beside its driver."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rome_lightning.avatar import Avatar
from rome_lightning.media.image import to_uint8
from rome_lightning.types import Frames, HeadParams, Rendered
from rome_lightning.types.params import at_rest

COLUMNS = ("source", "driver", "render", "mesh", "normals", "mask")
"""What ``comparison_rows`` shows, from left to right."""


def comparison_rows(source: Frames, driver: Frames, rendered: Rendered) -> Float[Tensor, "b 3 h w6"]:
    """One row per image: ``COLUMNS`` side by side, RGB in [0, 1].

    Args:
        source: identity frames.
        driver: frames whose expression, pose and camera were used; the mesh is drawn over them.
        rendered: the avatar's images of the same size.
    """
    overlay = mesh_overlay(driver.image, rendered)
    columns = [
        source.image,
        driver.image,
        rendered.image,
        overlay,
        shaded(rendered),
        rendered.mask.expand_as(rendered.image),
    ]
    return torch.cat([column.detach().float().clamp(0, 1) for column in columns], dim=-1)


def shaded(rendered: Rendered) -> Float[Tensor, "b 3 h w"]:
    """Normals as colours, white outside the mesh."""
    covered = rendered.mesh_mask.float()
    assert rendered.normals is not None
    return (rendered.normals * 0.5 + 0.5) * covered + (1 - covered)


def mesh_overlay(image: Float[Tensor, "b 3 h w"], rendered: Rendered) -> Float[Tensor, "b 3 h w"]:
    """The mesh, lit from the viewer, half transparent over an image."""
    assert rendered.normals is not None
    light = 0.25 + 0.75 * rendered.normals[:, 2:].clamp(0, 1)
    tint = light * torch.tensor([0.55, 0.75, 1.0], device=image.device)[:, None, None]
    return torch.where(rendered.mesh_mask, 0.45 * image + 0.55 * tint, image)


def driven_frames(
    avatar: Avatar,
    driver: HeadParams,
    images: Iterable[Float[Tensor, "3 h w"]] | None = None,
    batch_size: int = 8,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The avatar rendered in each of the driver's poses, on white.

    Args:
        avatar: the person to draw.
        driver: poses.
        images: the driver's frames, to show before the avatar, with its mesh behind; RGB in [0, 1].
        batch_size: frames drawn at once.
    """
    following = None if images is None else iter(images)
    for rendered in avatar.draw(driver, batch_size):
        image = rendered.image
        if following is not None:
            frames = torch.stack(list(islice(following, len(image))))
            image = torch.cat([frames, image, shaded(rendered)], dim=-1)
        for frame in image:
            yield to_uint8(frame)


def preview(avatar: Avatar) -> Float[Tensor, "3 h w"]:
    """The photograph, the avatar in the same pose, its mesh over the photograph, and three turned views."""
    source = avatar.source
    own = next(avatar.draw(source.params))
    columns = [source.image, own.image, mesh_overlay(source.image, own)]
    turns = torch.tensor([-0.5, 0.0, 0.5])
    pose = torch.stack([torch.zeros(3), turns, torch.zeros(3)], dim=1)
    still = at_rest(source.params).repeat_interleave(3)
    views = next(avatar.draw(dataclasses.replace(still, global_pose=pose)))
    columns += [*views.image.split(1), *shaded(views).split(1)]
    return torch.cat(columns, dim=-1)[0].clamp(0, 1)
