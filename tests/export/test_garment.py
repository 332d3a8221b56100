"""A figure's hands have the lit face's colour, and its garment covers the nape that no photograph shows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import perturbed, random_frames, small_config

from rome_lightning.avatar import Avatar
from rome_lightning.export.body import load_body
from rome_lightning.export.bust import avatar_cut
from rome_lightning.export.garment import dress
from rome_lightning.export.glb import rest_and_joints
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.models.texture import surface_of

SIZE = 256
SKIN, SHADOW, NAPE = (0.8, 0.6, 0.5), (0.3, 0.2, 0.15), (1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def avatar(head: HeadModel) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    return Avatar.create(model, random_frames(head, 1), refine_steps=0)


def on_texture(avatar: Avatar, field: torch.Tensor) -> torch.Tensor:
    """A value of each vertex, interpolated."""
    layout = surface_of(avatar.model.head, SIZE).layout
    return layout.gather(field.float()[None, :, None].to(layout.texels.device))[0, 0].cpu()


def test_hands_are_as_light_as_the_lit_face(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    face = on_texture(avatar, avatar.model.head.region("face")) > 0.9
    columns = torch.arange(SIZE).expand(SIZE, SIZE)
    seen = avatar.observed_texture(SIZE)
    # The photograph shows the left half of the face's texels; a third of them are a beard.
    half = columns < columns[face].median()
    visibility = half[None, None].float()
    seen = dataclasses.replace(seen, visibility=visibility)
    monkeypatch.setattr(avatar, "observed_texture", lambda size: seen)
    beard = torch.arange(SIZE)[:, None].expand(SIZE, SIZE) % 3 == 0
    texture = torch.where(
        half & ~beard, torch.tensor(SKIN)[:, None, None], torch.tensor(SHADOW)[:, None, None]
    )
    made = dress(avatar, texture).body_texture
    body = load_body()
    chosen = body.hands[body.faces].all(1)
    columns, rows = (body.uvs[body.uv_faces[chosen]].mean(1) * made.shape[-1]).long().unbind(1)
    torch.testing.assert_close(made[:, rows, columns].mean(1), torch.tensor(SKIN), atol=0.05, rtol=0)


def test_the_garment_covers_what_nobody_saw_of_the_nape(
    avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = avatar.model.head
    rest, _ = rest_and_joints(head, avatar.code.shape[0], None)
    height = on_texture(avatar, avatar_cut(avatar).above(rest))
    band = on_texture(avatar, head.region("neck", "shoulders")) > 0.99
    band &= (height > 0.01) & (height < 0.03)
    columns = torch.arange(SIZE).expand(SIZE, SIZE)
    middle = columns[band].median()
    visibility = (columns < middle)[None, None].float()
    seen = dataclasses.replace(avatar.observed_texture(SIZE), visibility=visibility)
    monkeypatch.setattr(avatar, "observed_texture", lambda size: seen)
    made = dress(avatar, torch.tensor(NAPE)[:, None, None].expand(3, SIZE, SIZE).contiguous())
    # Far from the line between what is visible and what is not.
    shown, hidden = band & (columns < middle - 16), band & (columns > middle + 16)
    assert min(int(hidden.sum()), int(shown.sum())) > 50
    away = (made.colour_texture - torch.tensor(NAPE)[:, None, None]).norm(dim=0)
    assert away[hidden].min() > 0.3
    assert away[shown].max() < 0.05
