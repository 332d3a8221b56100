"""The photographs that a mesh carries, prepared once per avatar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.models.foreground import foreground_colour
from rome_lightning.renderer import nearest_covered
from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.renderer.nearest_fill import values_of
from rome_lightning.types import Frames, Region
from rome_lightning.types.struct import TensorStruct

RGB, MATTE, KNOWN, BESIDE, LOOSE, HAIR, SKIN = (slice(0, 3), *(slice(i, i + 1) for i in range(3, 9)))
"""Channels of ``CarriedPhotos.layers``: colour, opacity of the person, 1 inside the photograph, distance to
the source's mesh in image widths (0 on it), 1 where hair hangs below the ears, 1 on hair, 1 on skin of the
face."""
NUM_STORED = 9
"""Their number."""
SOFT_EDGE = 0.01
"""Width of the soft edge of a face in a photograph, image widths."""
MARGIN = 0.03
"""Width of the band beside a photograph's border in which its matte is unsure, image widths: the network that
made it saw repeated pixels there."""
SURELY_BACKGROUND = 0.2
"""Opacity in that band below which it counts as background."""
FULL_BESIDE = 0.03
"""Distance from the source's mesh that only full hair exceeds, image widths."""
FULL = 0.008
"""Share of the hair beyond ``FULL_BESIDE`` above which hair is full; below it lies close to the head. A share
between both would draw translucent hair."""


@dataclass(frozen=True)
class CarriedPhotos(TensorStruct):
    """Photographs of a person and the position of the mesh in each."""

    layers: Float[Tensor, "b n 9 h w"]
    """See ``RGB`` and the names beside it, [0, 1] each."""
    vertices: Float[Tensor, "b n v 3"]
    """The mesh in each photograph: x and y as fractions of width and height, and the cosine between each
    vertex's normal and the direction to the camera."""
    visibility: Float[Tensor, "b n s s"]
    """Whether each photograph shows each texel, [0, 1]."""
    own_only: Float[Tensor, "b n s s"]
    """The part that is valid only while the person looks as in the photograph, see ``Observation``."""
    full_hair: Float[Tensor, "b n 1 1"]
    """Whether each photograph shows full hair, see ``full_hair``."""


def carried_photos(
    photos: Frames,
    vertices_px: Float[Tensor, "b v 3"],
    face_ids: Int32[Tensor, "b h w"],
    visibility: Float[Tensor, "b 1 s s"],
    own_only: Float[Tensor, "b 1 s s"],
    head: HeadModel,
) -> CarriedPhotos:
    """Prepare one photograph per avatar for ``carry``.

    Args:
        photos: at any resolution.
        vertices_px: the fitted mesh, in pixels of its photograph.
        face_ids: visible face per pixel of the photograph, -1 beside the mesh.
        visibility: of the texels, ``Observation.unhidden``.
        own_only: see ``Observation``.
        head: model of the mesh.
    """
    height, width = photos.image_size
    beside = nearest_covered(face_ids >= 0)[1][:, None]
    # Not indexed by the mask: on a GPU the host would wait for the number of ears' vertices.
    ears = torch.where(head.region("ears"), vertices_px[..., 1], -torch.inf).amax(1)
    rows = torch.arange(height, device=beside.device, dtype=beside.dtype)
    below = ((rows - ears[:, None]) / (0.06 * height) + 0.5).clamp(0, 1)[:, None, :, None]
    known = 1 - photos.region_mask(Region.OUTSIDE)
    hair = photos.region_mask(Region.HAIR)
    # The soft edge of skin is labelled background.
    skin = dilate(photos.region_mask(Region.FACE_SKIN), max(1, round(SOFT_EDGE * width)))
    # Before the matte is raised at the border, which would turn the background there into the person.
    colour = foreground_colour(photos.image, photos.foreground_mask)
    layers = torch.cat([colour, photos.foreground_mask, known, beside, hair * below, hair, skin], dim=1)
    layers = _continued(layers)
    place = (vertices_px[..., :2] + 0.5) / vertices_px.new_tensor([width, height])
    place = torch.cat([place, facing_camera(vertices_px, head.faces)], dim=-1)
    # Rounded as in avatar files, so that a saved avatar renders the same image.
    layers = layers.half().float()[:, None]
    return CarriedPhotos(layers, place[:, None], visibility, own_only, full_hair(layers))


def _continued(layers: Float[Tensor, "b 9 h w"]) -> Float[Tensor, "b 9 h w"]:
    """The layers of photographs, continued beyond the photograph's border within the crop."""
    height, width = layers.shape[-2:]
    known = layers[:, KNOWN]
    matte = _sure_at_border(layers[:, MATTE], known, layers[:, HAIR])
    layers = torch.cat([layers[:, RGB], matte, layers[:, 4:]], dim=1)
    nearest = nearest_covered(known[:, 0] > 0.5)[0]
    rows = torch.arange(height, device=nearest.device)[:, None]
    row = nearest // width
    under = (rows > row)[:, None].to(known.dtype)
    aside = (rows == row)[:, None].to(known.dtype) * (1 - known)
    repeated = values_of(nearest, layers)
    matte, continued = beyond_border(repeated, under, aside)
    hair, skin = (repeated[:, channel] * continued for channel in (HAIR, SKIN))
    repeated = torch.cat(
        [repeated[:, RGB], matte, continued, layers[:, BESIDE], repeated[:, LOOSE] * under, hair, skin], dim=1
    )
    return torch.lerp(repeated, layers, known)


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


def full_hair(layers: Float[Tensor, "b n 9 h w"]) -> Float[Tensor, "b n 1 1"]:
    """Whether each photograph shows full hair, which surrounds the head instead of lying on it, 0 or 1.

    Args:
        layers: see ``CarriedPhotos``.
    """
    hair = layers[:, :, HAIR] * layers[:, :, MATTE]
    outside = hair * (layers[:, :, BESIDE] > FULL_BESIDE)
    share = outside.sum((-1, -2)) / hair.sum((-1, -2)).clamp_min(1)
    return (share > FULL).to(share.dtype)[..., None]


def facing_camera(vertices_px: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b v 1"]:
    """Cosine between each vertex's normal and the direction to the camera."""
    # Projection flips y and z, which is a rotation: normals of the projected mesh still point outward.
    return -vertex_normals(vertices_px, faces)[..., 2:]
