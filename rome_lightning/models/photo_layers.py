"""The photographs that a mesh carries, prepared once per avatar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.models.foreground import foreground_colour
from rome_lightning.models.photo_canvas import BESIDE, HAIR, MATTE, widened
from rome_lightning.renderer import nearest_covered
from rome_lightning.renderer.morphology import dilate
from rome_lightning.types import Frames, Region
from rome_lightning.types.struct import TensorStruct

SOFT_EDGE = 0.01
"""Width of the soft edge of a face in a photograph, image widths."""
FULL_BESIDE = 0.03
"""Distance from the source's mesh that only full hair exceeds, image widths."""
FULL = 0.008
"""Share of the hair beyond ``FULL_BESIDE`` above which hair is full; below it lies close to the head. A share
between both would draw translucent hair."""


@dataclass(frozen=True)
class CarriedPhotos(TensorStruct):
    """Photographs of a person and the position of the mesh in each."""

    layers: Float[Tensor, "b n 9 h w"]
    """See ``RGB`` and the names beside it, [0, 1] each; of crops that are ``widened``."""
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
    full = full_hair(layers[:, None])
    layers = widened(layers)
    place = (vertices_px[..., :2] + 0.5) / vertices_px.new_tensor([width, height])
    place = torch.cat([place, facing_camera(vertices_px, head.faces)], dim=-1)
    # Rounded as in avatar files, so that a saved avatar renders the same image.
    layers = layers.half().float()[:, None]
    return CarriedPhotos(layers, place[:, None], visibility, own_only, full)


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
