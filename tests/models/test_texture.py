"""Observing the surface in photographs."""

import dataclasses
import math

import pytest
import torch
from helpers import SIZE, random_frames, small_config
from torch import Tensor

from rome_lightning.avatar import Avatar
from rome_lightning.models import AvatarModel
from rome_lightning.models.texture import observe, surface_of
from rome_lightning.types import Frames, Region
from rome_lightning.types.landmarks import INNER_LIPS_OUTLINE, NOSE_TIP
from rome_lightning.types.params import at_rest


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return AvatarModel(small_config(kind="fitted")).eval().requires_grad_(False)


def photo_of(model: AvatarModel, label: Region) -> Frames:
    """A photograph filled by the person, with one label everywhere."""
    frames = random_frames(model.head, 1)
    return dataclasses.replace(
        frames,
        foreground_mask=torch.ones(1, 1, SIZE, SIZE),
        regions=torch.full_like(frames.regions, int(label)),
        # Lips and lids as tracked.
        landmarks=model.head.landmarks(
            model.project(model.head(frames.params), frames.params, frames.image_size), "mediapipe"
        )[..., :2],
    )


def view_of(model: AvatarModel, photo: Frames) -> tuple[Tensor, Tensor]:
    """The bare mesh in a photograph, pixels, and the visible face at each pixel."""
    vertices_px = model.project(model.head(photo.params), photo.params, photo.image_size)
    return vertices_px, model.rasterizer.face_ids(vertices_px, model.head.faces, photo.image_size)


def test_a_collar_is_no_part_of_the_face_in_any_texture(model: AvatarModel) -> None:
    skin, cloth = (photo_of(model, label) for label in (Region.FACE_SKIN, Region.CLOTHES))
    vertices_px, face_ids = view_of(model, skin)
    layout = model.texture_model.layout
    face, chest = (
        layout.gather(model.head.region(n).float()[None, :, None]) > 0.99 for n in ("face", "shoulders")
    )
    seen, hidden = (model.texture_model.observe(photo, vertices_px, face_ids) for photo in (skin, cloth))
    for field in ("visibility", "unhidden"):
        plain, covered = getattr(seen, field), getattr(hidden, field)
        assert plain[face].mean() > 0.1
        # Up to 1 % of a texel at the border is not part of the face.
        assert covered[face].max() < 0.01
        assert torch.equal(covered[chest], plain[chest])
    # Exported textures follow the same rule.
    avatar = Avatar(model, model.encode(cloth), cloth, SIZE)
    assert avatar.observed_texture(layout.size).visibility[face].max() < 0.01


def test_the_photograph_of_a_mouth_reaches_a_little_beyond_what_is_seen(model: AvatarModel) -> None:
    photo = photo_of(model, Region.FACE_SKIN)
    vertices_px, face_ids = view_of(model, photo)
    surface = surface_of(model.head, 256)
    exact = observe(photo, vertices_px, model.head.faces, face_ids, surface.layout)
    reached = model.texture_model.observe(photo, vertices_px, face_ids, surface)
    eyes = (surface.completion.is_interior > 0.5) & (surface.completion.is_mouth < 0.5)
    assert torch.equal(reached.visibility[eyes], exact.visibility[eyes])
    grown = (reached.unhidden - exact.unhidden)[eyes]
    assert grown.min() >= 0
    assert grown.max() > 0.5
    # A few texels, not the whole eyeball.
    assert float((grown > 0.01).float().mean()) < 0.5


def test_what_depends_on_the_mouth_is_known(model: AvatarModel) -> None:
    """A mouth tracked as closed that is open by 8 % of the image, and the reverse."""
    photo = photo_of(model, Region.FACE_SKIN)
    vertices_px, face_ids = view_of(model, photo)
    surface = surface_of(model.head, 256)
    completion = surface.completion
    places = surface.layout.gather(vertices_px)[0, :2]
    skin = (completion.bare[0, 0] > 0.99) & (completion.is_interior[0, 0] < 0.5)
    mouth = completion.is_mouth[0, 0] > 0.5
    middle = (completion.sheen[0, 0] == 0) & (completion.sides[0, 0] == 0)
    points = model.head.landmarks(vertices_px, "mediapipe")[..., :2]
    centre = points[:, list(INNER_LIPS_OUTLINE)].mean(1)[0]
    near = (places - centre[:, None, None]).norm(dim=0)
    exact = observe(photo, vertices_px, model.head.faces, face_ids, surface.layout)
    for radius in (0.5, 0.08 * SIZE):
        circle = torch.linspace(0, 2 * math.pi, len(INNER_LIPS_OUTLINE) + 1)[:-1]
        opened = points.clone()
        opened[0, list(INNER_LIPS_OUTLINE)] = centre + radius * torch.stack([circle.cos(), circle.sin()], -1)
        seen = model.texture_model.observe(
            dataclasses.replace(photo, landmarks=opened), vertices_px, face_ids, surface
        )
        # Teeth are not skin: lips that show them are valid only while the mouth is as open.
        between = skin & (near < radius - 2)
        torch.testing.assert_close(seen.own_only[0, 0, between], exact.unhidden[0, 0, between])
        assert float(seen.visibility[0, 0, between].sum()) < 1e-3
        away = skin & (near > radius + 4) & (places[1] > points[0, NOSE_TIP, 1]) & middle
        assert float(seen.own_only[0, 0, away].max()) < 1e-3
        torch.testing.assert_close(seen.visibility[0, 0, away], exact.visibility[0, 0, away])
        # So does all of the inside, and the texture keeps its generic colours.
        assert torch.equal(seen.own_only[0, 0, mouth], seen.unhidden[0, 0, mouth])
        assert float(seen.own_only[0, 0, mouth].max()) > 0.5
        assert not seen.visibility[0, 0, mouth].any()
        assert bool((seen.own_only <= seen.unhidden + 1e-6).all())


def test_hair_on_a_bare_ear_lies_behind_it_and_hair_on_a_covered_one_does_not(model: AvatarModel) -> None:
    photo = photo_of(model, Region.FACE_SKIN)
    vertices_px, face_ids = view_of(model, photo)
    surface = surface_of(model.head, 256)
    left, right = model.texture_model.observe(photo, vertices_px, face_ids, surface).visibility * (
        surface.completion.ears > 0.99
    )
    places = surface.layout.gather(vertices_px)[0, :2].long().clamp(0, SIZE - 1)
    regions = photo.regions.clone()
    for ear, share in ((left, 0.2), (right, 1.0)):
        columns, rows = places[:, ear[0] > 0.2]
        hairy = rows <= rows.float().quantile(share)
        regions[0, rows[hairy], columns[hairy]] = int(Region.HAIR)
    seen = model.texture_model.observe(
        dataclasses.replace(photo, regions=regions), vertices_px, face_ids, surface
    )
    for ear, is_bare in ((left, True), (right, False)):
        hair = (ear[0] > 0.2) & (seen.hair[0, 0] > 0.9)
        assert hair.sum() > 5
        assert float(seen.visibility[0, 0, hair].mean()) < 0.1 or not is_bare
        assert float(seen.visibility[0, 0, hair].mean()) > 0.2 or is_bare
        # The photograph's own view still shows it.
        kept = seen.own_only[0, 0, hair] / seen.unhidden[0, 0, hair]
        assert kept.min() > 0.85 if is_bare else kept.max() < 0.01


def test_spectacles_arms_are_seen_at_grazing_angles(model: AvatarModel) -> None:
    surface = surface_of(model.head, 256)
    photo = photo_of(model, Region.FACE_SKIN)
    # Seen from the front, so that both sides are at grazing angles.
    photo = dataclasses.replace(photo, params=at_rest(photo.params))
    vertices_px, face_ids = view_of(model, photo)
    with_arms = dataclasses.replace(photo, regions=torch.full_like(photo.regions, int(Region.OTHER)))
    bare, arms = (
        model.texture_model.observe(each, vertices_px, face_ids, surface) for each in (photo, with_arms)
    )
    below = surface.completion.hairless > 0.99
    grazing = (surface.completion.sides > 0.99) & (bare.unhidden > 0.99) & (bare.visibility < 0.2)
    # Earrings.
    torch.testing.assert_close(
        arms.visibility[grazing & below], bare.visibility[grazing & below], atol=0.02, rtol=0
    )
    grazing = grazing & (surface.completion.hairless == 0)
    assert grazing.sum() > 50
    assert arms.visibility[grazing].min() > 0.9
    middle = surface.completion.sides == 0
    assert torch.equal(arms.visibility[middle], bare.visibility[middle])
