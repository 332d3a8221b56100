"""What a photograph shows at the sides of a face: hair before and beside it, and skin at grazing angles."""

import dataclasses

import pytest
import torch
from carried import carried_to, smooth_photo
from helpers import SIZE, small_config

from rome_lightning.head.depth import lower_face
from rome_lightning.models import AvatarModel, photo_layers
from rome_lightning.models.carrying import VISIBILITY
from rome_lightning.models.photo_canvas import BESIDE, HAIR, MATTE, NUM_STORED
from rome_lightning.models.photo_layers import facing_camera, full_hair
from rome_lightning.renderer import interpolate
from rome_lightning.renderer.morphology import dilate
from rome_lightning.types import Frames, Region
from rome_lightning.types.params import at_rest


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return AvatarModel(small_config(kind="fitted")).eval().requires_grad_(False)


def shown_on(model: AvatarModel, photo: Frames, part: torch.Tensor, yaw: float) -> torch.Tensor:
    """Share of the photograph on the pixels of a part of the head that is turned by an angle, radians."""
    turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, yaw, 0.0]]))
    layers, mask = carried_to(model, photo, turned)
    drawn = model.render(model.encode(photo), turned, (SIZE, SIZE))
    mesh = (drawn.vertices_px, model.head.faces, drawn.face_ids)
    covered = interpolate(*mesh, part[None, :, None].float())
    return layers[:, VISIBILITY][mask & (covered > 0.99)]


@pytest.mark.parametrize("cheeks", [Region.FACE_SKIN, Region.HAIR])
def test_hair_before_a_jaw_is_kept_where_it_hangs_before_the_ear_and_belongs_to_the_own_view_otherwise(
    model: AvatarModel, cheeks: Region
) -> None:
    photo = smooth_photo(model)
    photo = dataclasses.replace(photo, params=at_rest(photo.params))
    head = model.head
    drawn = model.render(model.encode(photo), photo.params, (SIZE, SIZE))
    mesh = (drawn.vertices_px, head.faces, drawn.face_ids)
    rest = head.to_vertices(head.template.view(-1, 3))
    above = rest[:, 1] > rest[head.region("ears"), 1].min()
    aside = lower_face(head) & (rest[:, 0].abs() > 0.04)
    before_ears = interpolate(*mesh, (aside & above)[None, :, None].float())[:, 0] > 0
    labels = torch.where(before_ears, cheeks, Region.HAIR).to(torch.uint8)
    photo = dataclasses.replace(photo, regions=labels)
    jaw = aside & ~above

    assert shown_on(model, photo, jaw, 0.0).mean() > 0.5
    if cheeks == Region.HAIR:
        assert shown_on(model, photo, jaw, 0.5).max() > 0.5
    else:
        assert shown_on(model, photo, jaw, 0.5).max() < 0.3


def test_the_side_of_a_face_belongs_to_the_photographs_own_view_unless_it_is_close_to_an_eye(
    model: AvatarModel,
) -> None:
    """Skin reflects its surroundings at grazing angles."""
    photo = smooth_photo(model)
    skin = torch.full_like(photo.regions, Region.FACE_SKIN)
    photo = dataclasses.replace(photo, params=at_rest(photo.params), regions=skin)
    head = model.head
    rest = head.to_vertices(head.template.view(-1, 3))
    from_eyes = torch.cdist(rest, rest[head.region("eyes")]).amin(1)
    face = head.region("face")
    cheek = face & (rest[:, 0].abs() > 0.046) & (from_eyes > 0.02)
    eye = face & (from_eyes < 0.007) & (rest[:, 0].abs() < 0.044)

    assert shown_on(model, photo, cheek, 0.0).mean() > 0.5
    assert shown_on(model, photo, cheek, 0.3).mean() < 0.05
    assert shown_on(model, photo, eye, 0.3).mean() > 0.5


def test_hair_is_full_or_not_and_never_translucent() -> None:
    layers = torch.zeros(7, 1, NUM_STORED, 100, 100)
    layers[:, :, [HAIR.start, MATTE.start]] = 1
    for each, share in zip(layers, (0.0, 0.004, 0.012, 0.028, 0.036, 0.04, 0.08), strict=True):
        each[:, BESIDE.start].view(-1)[: round(share * 10000)] = 1
    assert full_hair(layers).flatten().tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_full_hair_stays_beside_a_face_that_turns_and_hair_on_the_head_does_not(
    model: AvatarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = smooth_photo(model)
    photo = dataclasses.replace(photo, params=at_rest(photo.params))
    turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, 0.6, 0.0]]))
    drawn = model.render(model.encode(photo), photo.params, (SIZE, SIZE))
    hair = dilate(drawn.mesh_mask.float(), SIZE // 6)
    regions = torch.where(hair[:, 0] > 0, Region.HAIR, 0).to(torch.uint8)
    photo = dataclasses.replace(photo, regions=regions, foreground_mask=hair)
    full, mask = carried_to(model, photo, turned)
    # The same hair as close to the head as short hair.
    monkeypatch.setattr(photo_layers, "FULL_BESIDE", 1.0)
    short, _ = carried_to(model, photo, turned)
    lost = (full[:, MATTE] - short[:, MATTE]) * ~mask
    assert (lost > 0.9).sum() > 20
    # The nose points to the right: that side of the outline is the face's.
    middle = float(drawn.vertices_px[0, model.head.region("face"), 0].mean())
    columns = torch.arange(SIZE).expand_as(lost)
    assert (columns[lost > 0.9] > middle).all() or (columns[lost > 0.9] < middle).all()


def test_a_stretched_cheek_is_not_taken_from_the_photograph_and_stretched_hair_is(model: AvatarModel) -> None:
    photo = smooth_photo(model)
    photo = dataclasses.replace(photo, params=at_rest(photo.params))
    turned = dataclasses.replace(photo.params, global_pose=torch.tensor([[0.0, 0.5, 0.0]]))
    rendered = model.render(model.encode(photo), turned, (SIZE, SIZE))
    layers, mask = carried_to(model, photo, turned)
    mesh = (rendered.vertices_px, model.head.faces, rendered.face_ids)
    before = facing_camera(model.render(model.encode(photo), photo.params, (SIZE, SIZE)).vertices_px, mesh[1])
    lower, face = lower_face(model.head), model.head.region("face")
    regions = torch.stack([lower, face & ~lower, model.head.region("scalp")], dim=-1)[None].float()
    per_vertex = torch.cat([before, facing_camera(mesh[0], mesh[1]), regions], dim=-1)
    there, now, *parts = interpolate(*mesh, per_vertex).split(1, dim=1)
    flat = mask & (there / now.clamp_min(0.05) - 0.3).abs().le(0.08)
    cheek, temple, hair = (layers[:, VISIBILITY][flat & (part > 0.99)] for part in parts)
    assert min(len(cheek), len(temple), len(hair)) > 5
    assert cheek.max() == 0
    assert 0 < temple.mean() < 0.5 * hair.mean()
    assert hair.mean() > 0.3
