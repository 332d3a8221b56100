"""Photographs to carry, and what becomes of them in another view."""

import dataclasses

import torch
from helpers import SIZE, random_frames

from rome_lightning.models import AvatarModel
from rome_lightning.models.carrying import carry
from rome_lightning.renderer import nearest_covered, render_texture
from rome_lightning.types import Frames
from rome_lightning.types.landmarks import EYE_OUTLINES


def smooth_photo(model: AvatarModel, num: int = 1) -> Frames:
    """Colours that change slowly, so that interpolation is exact to a level."""
    frames = random_frames(model.head, num)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, SIZE), torch.linspace(0, 1, SIZE), indexing="ij")
    image = torch.stack([rows, columns, 0.5 * (rows + columns)])[None].expand(num, -1, -1, -1)
    regions = torch.zeros_like(frames.regions)
    # No eyes: their places are random.
    landmarks = frames.landmarks.clone()
    landmarks[:, list(sum(EYE_OUTLINES, ()))] = 0
    return dataclasses.replace(
        frames,
        image=image,
        foreground_mask=torch.ones(num, 1, SIZE, SIZE),
        regions=regions,
        landmarks=landmarks,
    )


def carried_to(model: AvatarModel, photo: Frames, params) -> tuple[torch.Tensor, torch.Tensor]:
    """Result of ``carry`` and coverage of the driven mesh."""
    code = model.encode(photo)
    rendered = model.render(code, params, (SIZE, SIZE))
    mesh = (rendered.vertices_px, model.head.faces, rendered.face_ids)
    maps = torch.cat([code.carried.visibility, code.carried.own_only], dim=1)
    visible = render_texture(*mesh, model.head.uvs, model.head.uv_faces, maps) * rendered.mesh_mask
    nearest, distance = nearest_covered(rendered.face_ids >= 0)
    parts, plane = model.renderer.parts, model.renderer.ear_plane
    same = torch.ones(1, 1)
    layers = carry(code.carried, *mesh, visible, same, parts, plane, distance[:, None], nearest)
    return layers, rendered.mesh_mask
