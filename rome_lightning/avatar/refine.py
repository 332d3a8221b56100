"""Fitting an avatar's offsets to the outlines of its photographs."""

from __future__ import annotations

import dataclasses

import torch

from rome_lightning.avatar.several import person_texture
from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.tracking.outline import fit_outline
from rome_lightning.types import Frames


def refine_offsets(model: AvatarModel, code: AvatarCode, source: Frames, num_steps: int = 100) -> AvatarCode:
    """Move hair, neck and shoulders until the mesh's outline is the person's in every photograph.

    Departure from ROME: its offsets are what the network says; a network trained on few people
    has not seen every haircut.

    Args:
        model: networks; not changed.
        code: avatars to refine; returned as they are if they have no offsets of their own.
        source: the photographs: one per avatar, or all those of one avatar.
        num_steps: of Adam, see ``fit_outline``; 0 leaves the offsets to the network.

    Returns:
        The avatars with new offsets, and textures taken through them.
    """
    part = model.offset_network
    if num_steps == 0 or code.offsets is None or part is None:
        return code
    photos_each = len(source) // len(code.offsets)
    # The avatar's identity, which need not be the one that its photographs were tracked with.
    shape = code.shape.repeat_interleave(photos_each, dim=0)
    fitted = dataclasses.replace(source, params=dataclasses.replace(source.params, shape=shape))
    offsets = fit_outline(
        model.head,
        fitted,
        model.rasterizer,
        code.offsets.detach(),
        num_steps,
        model.config.offsets.max_offset,
        part.falloff,
    )
    with torch.no_grad():
        texture = code.texture
        if model.config.texture.source == "unprojected":
            if photos_each > 1:
                texture = person_texture(model, source, offsets)
            else:
                texture = model.encode_texture(source, offsets)
        return AvatarCode(texture, code.shape, offsets)
