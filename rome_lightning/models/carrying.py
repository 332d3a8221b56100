"""The photograph itself, carried to a new pose by the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.head import HeadModel
from rome_lightning.renderer import Rasterizer, extend_outside, interpolate, push_pull
from rome_lightning.types import Frames, Region
from rome_lightning.types.struct import TensorStruct

RGB, MATTE, KNOWN, BESIDE, LOOSE = slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6), slice(6, 7)
"""Channels of ``CarriedPhotos.layers``: colour, opacity of the person, 1 within the photograph, how far the
pixel is beside the source's mesh in image widths, 0 on it, and 1 where hair hangs below the ears."""
_SHARPNESS = 4
"""Power of the visibility in the weights of several photographs: the best view of a point should win."""


@dataclass(frozen=True)
class CarriedPhotos(TensorStruct):
    """Photographs of a person and the place of the mesh in each."""

    layers: Float[Tensor, "b n 7 h w"]
    """See ``RGB`` and the names beside it, [0, 1] each."""
    vertices: Float[Tensor, "b n v 2"]
    """The mesh in each photograph, in shares of its width and height."""
    visibility: Float[Tensor, "b n s s"]
    """How well each photograph shows each texel, [0, 1]."""


def carried_photos(
    photos: Frames,
    vertices_px: Float[Tensor, "b v 3"],
    visibility: Float[Tensor, "b 1 s s"],
    head: HeadModel,
    rasterizer: Rasterizer,
) -> CarriedPhotos:
    """One photograph per avatar, ready to be carried.

    Args:
        photos: at any resolution.
        vertices_px: the fitted mesh, in pixels of its photograph.
        visibility: of the texels, see ``unproject``.
        head: whose mesh it is.
        rasterizer: for the mesh's outline.
    """
    height, width = photos.image_size
    mask = (rasterizer.face_ids(vertices_px, head.faces, (height, width)) >= 0)[:, None]
    _, beside = extend_outside(mask.float(), mask)
    known = 1 - photos.region_mask(Region.OUTSIDE)
    ears = vertices_px[:, head.region("ears"), 1].amax(1)
    rows = torch.arange(height, device=known.device, dtype=known.dtype)
    below = ((rows - ears[:, None]) / (0.06 * height) + 0.5).clamp(0, 1)[:, None, :, None]
    loose = photos.region_mask(Region.HAIR) * below
    layers = torch.cat([photos.image, photos.foreground_mask, known, beside, loose], dim=1)
    place = (vertices_px[..., :2] + 0.5) / vertices_px.new_tensor([width, height])
    return CarriedPhotos(layers[:, None], place[:, None], visibility)


def carry(
    photos: CarriedPhotos,
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    visibility: Float[Tensor, "b n h w"],
) -> Float[Tensor, "b 7 h w"]:
    """The layers of the photographs as the driven mesh carries them.

    Each covered pixel shows a point of the surface, and the photograph shows the same point somewhere: that
    displacement is continued smoothly beyond the mesh, so that loose hair and clothes come along.

    Args:
        photos: of each avatar.
        vertices_px: the driven mesh, pixels.
        faces: triangles of the mesh.
        face_ids: visible face per pixel, -1 on the background.
        visibility: of the surface in each photograph, at the pixels of the driven mesh; 0 outside.
    """
    batch, count = visibility.shape[:2]
    height, width = face_ids.shape[1:]
    mask = (face_ids >= 0)[:, None]
    size = vertices_px.new_tensor([width, height])
    here = (vertices_px[:, None, :, :2] + 0.5) / size
    # The displacement of each vertex is interpolated, not its place: far from 0 it loses precision.
    moved = (photos.vertices - here).transpose(1, 2).flatten(2)
    displacement = interpolate(vertices_px, faces, face_ids, moved.float().contiguous())
    displacement = push_pull(displacement, mask.to(displacement.dtype)).unflatten(1, (count, 2))
    rows = (torch.arange(height, device=mask.device) + 0.5) / height
    columns = (torch.arange(width, device=mask.device) + 0.5) / width
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy")) + displacement
    grid = (2 * place - 1).flatten(0, 1).permute(0, 2, 3, 1)
    layers = F.grid_sample(photos.layers.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    inside = ((grid.abs() <= 1).all(-1))[:, None]
    layers = torch.cat([layers[:, :4], layers[:, KNOWN] * inside, layers[:, 5:]], dim=1)
    if count == 1:
        return layers
    return _best_view(layers.unflatten(0, (batch, count)), visibility, mask)


def _best_view(
    layers: Float[Tensor, "b n 7 h w"], visibility: Float[Tensor, "b n h w"], mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 7 h w"]:
    """One photograph per pixel: where the mesh is, the one that sees the point best, else the best of all."""
    overall = visibility.sum((-1, -2), keepdim=True)
    weight = torch.where(mask, visibility, overall / overall.amax(1, keepdim=True).clamp_min(1e-6)) + 1e-3
    weight = weight.pow(_SHARPNESS)
    return (layers * (weight / weight.sum(1, keepdim=True))[:, :, None]).sum(1)
