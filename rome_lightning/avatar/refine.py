"""Fitting an avatar's offsets to the outlines of its photographs."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_lightning.avatar.several import person_texture
from rome_lightning.geometry import unique_edges, vertex_normals
from rome_lightning.losses import laplacian, occupancy
from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.models.avatar_model import at_rest
from rome_lightning.renderer import coverage
from rome_lightning.types import Frames, Region

SMOOTHNESS = 60.0
"""Weight of the mesh Laplacian in the step's metric: an outline's pull reaches a few rings of vertices."""
LEARNING_RATE = 2e-3
"""Step of Adam in the smoothed coordinates, metres."""
OTHERS_WEIGHT = 0.5
"""Of further photographs against the first."""
LAPLACIAN_WEIGHT = 10.0
"""Of the roughness of the offsets against the squared error of the silhouette."""


def refine_offsets(model: AvatarModel, code: AvatarCode, source: Frames, num_steps: int = 100) -> AvatarCode:
    """Move hair, neck and shoulders until the mesh's outline is the person's in every photograph.

    Steps are taken in coordinates smoothed over the surface, so that the contour, which alone gets
    gradients, takes its surroundings with it and the far side of the head follows smoothly.

    Source: the smoothed coordinates: Nicolet et al., Large steps in inverse rendering of geometry, 2021.
    Departure from ROME: its offsets are what the network says; a network trained on few people
    has not seen every haircut.

    Args:
        model: networks; not changed.
        code: avatars to refine; returned as they are if they have no offsets of their own.
        source: the photographs: one per avatar, or all those of one avatar.
        num_steps: of Adam; 0 leaves the offsets to the network.

    Returns:
        The avatars with new offsets, and textures taken through them.
    """
    if num_steps == 0 or code.offsets is None or model.offset_network is None:
        return code
    head, network = model.head, model.offset_network
    edges = unique_edges(head.faces)
    smooth = _smoother(network.moving, edges, head.num_vertices)
    start = code.offsets.detach()
    first = source.params[slice(0, len(start))]
    normals = vertex_normals(head(at_rest(dataclasses.replace(first, shape=code.shape))), head.faces)
    photos_each = len(source) // len(start)
    # Nobody knows what is beyond the border of a picture.
    known = 1 - source.region_mask(Region.OUTSIDE)
    if photos_each > 1:
        known[1:] = OTHERS_WEIGHT * known[1:] * beside_head(source[slice(1, None)])
    outline = source.foreground_mask * known
    limit = model.config.offsets.max_offset
    steps = torch.zeros_like(start[:, network.moving, :1]).requires_grad_()
    optimizer = torch.optim.Adam([steps], LEARNING_RATE, betas=(0.9, 0.99))

    def current() -> Float[Tensor, "b v 3"]:
        lengths = torch.zeros_like(start[..., :1])
        lengths = lengths.index_copy(1, network.moving, network.falloff * (smooth @ steps))
        return _shortened(start + lengths * normals, limit)

    with torch.enable_grad():
        for _ in range(num_steps):
            moved = dataclasses.replace(code, offsets=current()).repeat_interleave(photos_each)
            mesh = model.deform(moved, source.params)
            vertices_px = model.project(mesh.vertices, source.params, source.image_size)
            face_ids = model.rasterizer.face_ids(vertices_px, head.faces, source.image_size)
            silhouette = coverage(vertices_px, head.faces, face_ids)
            # A sum over the photographs of a person: further ones must not make the first count less.
            loss = photos_each * occupancy(silhouette * known, outline)
            loss = loss + LAPLACIAN_WEIGHT * laplacian(mesh.offsets, edges)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        offsets = current()
        texture = code.texture
        if model.config.texture.source == "unprojected":
            if photos_each > 1:
                texture = person_texture(model, source, offsets)
            else:
                texture = model.encode_texture(source, offsets)
        return AvatarCode(texture, code.shape, offsets)


def beside_head(photos: Frames) -> Float[Tensor, "b 1 h w"]:
    """Where further photographs show background above the chin, [0, 1]: the mesh must not be there.

    They only carve: hair hangs and poses are off by a little from one photograph to another, so a mesh that
    grew into every outline would be larger than the head in each. Below the chin tracking guesses, see
    ``texels_of_the_head``.
    """
    rows = torch.arange(photos.image_size[0], device=photos.image.device).view(1, 1, -1, 1)
    chin = photos.landmarks[..., 1].amax(1).view(-1, 1, 1, 1)
    return (rows < chin).to(photos.image.dtype) * (1 - photos.foreground_mask)


def _shortened(offsets: Float[Tensor, "b v 3"], limit: float) -> Float[Tensor, "b v 3"]:
    """The same directions with lengths of at most ``limit``; its gradient is finite at 0."""
    square = offsets.square().sum(-1, keepdim=True)
    return offsets * (limit / square.clamp_min(limit**2).sqrt())


def _smoother(
    moving: Int[Tensor, " m"], edges: Int[Tensor, "e 2"], num_vertices: int
) -> Float[Tensor, "m m"]:
    """Inverse of (1 + weight x Laplacian) over the moving vertices, whose other neighbours stay at 0."""
    index = torch.full((num_vertices,), -1, dtype=torch.long, device=moving.device)
    index[moving] = torch.arange(len(moving), device=moving.device)
    start, end = torch.cat([edges, edges.flip(1)]).unbind(1)
    matrix = torch.eye(len(moving), device=moving.device)
    ours = index[start] >= 0
    row, column = index[start[ours]], index[end[ours]]
    weight = torch.full_like(row, SMOOTHNESS, dtype=matrix.dtype)
    matrix.index_put_((row, row), weight, accumulate=True)
    inside = column >= 0
    matrix.index_put_((row[inside], column[inside]), -weight[inside], accumulate=True)
    return torch.linalg.inv(matrix)
