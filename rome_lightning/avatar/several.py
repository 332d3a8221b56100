"""One person from several photographs: what one does not show, another may."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.models.texture import UnprojectedTexture
from rome_lightning.renderer import UVLayout
from rome_lightning.types import Frames
from rome_lightning.types.params import at_rest

_POOR, _GOOD = 0.0, 0.05
"""Visibility in the first photograph up to which others are used, and from which they are not: mixed, mouth
and eyes of two expressions would give those of nobody."""
_SHARPNESS = 4
"""Power of the visibility in the weights; the better view of a point should win, not the mean of all."""
_LEAST_SEEN, _WELL_SEEN = 0.5, 0.9
"""Visibility from which further photographs are believed a little, and wholly: beside their outlines, where
they alone would add something, the surface is least well known."""
_MAX_LOG_GAIN = 0.5
"""Bound of the correction of a photograph's exposure and white balance."""
_LEAST_OVERLAP = 0.002
"""Share of the texture that two photographs must both see well to tell their exposures apart."""


def encode_person(model: AvatarModel, photos: Frames) -> AvatarCode:
    """The avatar of one person from all of the photographs together.

    Args:
        model: in evaluation mode.
        photos: one or several, with the same identity coefficients; the first is trusted most.

    Raises:
        ValueError: the photographs were fitted with different identities.
    """
    if len(photos) == 1:
        return model.encode(photos)
    shape = photos.params.shape
    if float((shape - shape[:1]).abs().max()) > 1e-4:
        raise ValueError(
            f"the {len(photos)} photographs must share one identity; track them together with "
            "rome_lightning.tracking.track_photos"
        )
    part = model.offset_network
    texture = person_texture(model, photos)
    if part is None or part.expression_dependent:
        return AvatarCode(texture, shape[:1], None)
    rest = model.head(at_rest(photos.params))
    repeated = texture.expand(len(photos), -1, -1, -1)
    offsets = part.rest_offsets(photos, repeated, rest).mean(0, keepdim=True)
    return AvatarCode(person_texture(model, photos, offsets), shape[:1], offsets)


def person_texture(
    model: AvatarModel, photos: Frames, offsets: Float[Tensor, "1 v 3"] | None = None
) -> Float[Tensor, "1 c s s"]:
    """Neural texture of one person.

    Unprojected textures see the fused observations; ROME's encoder, which never leaves the image, gives
    the mean of what it says of each photograph.

    Args:
        model: in evaluation mode.
        photos: of the person.
        offsets: displacements of the head at rest, metres.
    """
    if offsets is not None:
        offsets = offsets.expand(len(photos), -1, -1)
    if len(photos) == 1 or not isinstance(model.texture_model, UnprojectedTexture):
        return model.encode_texture(photos, offsets).mean(0, keepdim=True)
    vertices = model.head(photos.params)
    if offsets is not None:
        vertices = vertices + model.head.turn(offsets, photos.params)
    vertices_px = model.project(vertices, photos.params, photos.image_size)
    colour, visibility = model.texture_model.observe(photos, vertices_px)
    head_texels = texels_of_the_head(model.head, model.texture_model.layout)
    return model.texture_model.complete(*fuse(colour, visibility, head_texels))


def texels_of_the_head(head: HeadModel, layout: UVLayout) -> Float[Tensor, "1 1 s s"]:
    """1 on texels of face, ears and scalp, 0 on neck and shoulders, soft at the border.

    Tracking guesses shoulders from the turn of the head. One photograph's guess does no harm, because the
    same photograph is seen through it, but the guesses of two do not agree.
    """
    return layout.gather(head.region("face", "ears", "eyes", "mouth", "scalp").float()[None, :, None])


def fuse(
    colour: Float[Tensor, "n 3 s s"],
    visibility: Float[Tensor, "n 1 s s"],
    trusted: Float[Tensor, "1 1 s s"] | float = 1.0,
) -> tuple[Float[Tensor, "1 3 s s"], Float[Tensor, "1 1 s s"]]:
    """One set of observed colours from several, each point mostly from whoever sees it best.

    Args:
        colour: RGB in [0, 1] per photograph.
        visibility: how well each photograph sees each texel, [0, 1].
        trusted: how far others than the first are believed, [0, 1]; see ``texels_of_the_head``.
    """
    balanced = colour * _gains(colour, visibility)
    sure = ((visibility[1:] - _LEAST_SEEN) / (_WELL_SEEN - _LEAST_SEEN)).clamp(0, 1)
    others = sure * trusted * (1 - ((visibility[:1] - _POOR) / (_GOOD - _POOR)).clamp(0, 1))
    visibility = torch.cat([visibility[:1], others])
    best = visibility.amax(0, keepdim=True)
    # Where nobody sees anything the colour is of no meaning, but must stay finite.
    weight = (visibility / best.clamp_min(1e-8)).pow(_SHARPNESS)
    mixed = (balanced * weight).sum(0, keepdim=True) / weight.sum(0, keepdim=True).clamp_min(1e-8)
    return mixed.clamp(0, 1), best


def _gains(
    colour: Float[Tensor, "n 3 s s"], visibility: Float[Tensor, "n 1 s s"]
) -> Float[Tensor, "n 3 1 1"]:
    """Factor per channel that brings each photograph to the light of the first, where both see."""
    both = (visibility * visibility[:1]).square()
    amount = both.mean((1, 2, 3))[:, None]
    ratio = torch.log((colour[:1] + 0.02) / (colour + 0.02))
    # Two expressions do not match point by point: bounded ratios keep teeth and lips from deciding.
    mean = (ratio.clamp(-1, 1) * both).mean((2, 3)) / amount.clamp_min(1e-8)
    gain = torch.where(amount > _LEAST_OVERLAP, mean.clamp(-_MAX_LOG_GAIN, _MAX_LOG_GAIN), 0.0)
    return gain.exp()[..., None, None]
