"""What photographs show of the surface."""

import dataclasses

import pytest
import torch
from helpers import SIZE, random_frames, small_config

from rome_lightning.avatar import Avatar
from rome_lightning.models import AvatarModel
from rome_lightning.models.texture import observe, surface_of
from rome_lightning.types import Frames, Region


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return AvatarModel(small_config(kind="fitted")).eval().requires_grad_(False)


def photo_of(model: AvatarModel, label: Region) -> Frames:
    """A photograph that the person fills, with one label everywhere."""
    frames = random_frames(model.head, 1)
    return dataclasses.replace(
        frames,
        foreground_mask=torch.ones(1, 1, SIZE, SIZE),
        regions=torch.full_like(frames.regions, int(label)),
    )


def test_a_collar_is_no_part_of_the_face_in_any_texture(model: AvatarModel) -> None:
    skin, cloth = (photo_of(model, label) for label in (Region.FACE_SKIN, Region.CLOTHES))
    vertices_px = model.project(model.head(skin.params), skin.params, skin.image_size)
    layout = model.texture_model.layout
    face, chest = (
        layout.gather(model.head.region(n).float()[None, :, None]) > 0.99 for n in ("face", "shoulders")
    )
    seen, hidden = (model.texture_model.observe(photo, vertices_px) for photo in (skin, cloth))
    for field in ("visibility", "unhidden"):
        plain, covered = getattr(seen, field), getattr(hidden, field)
        assert plain[face].mean() > 0.1
        # Up to 1 % of a texel beside the border is not the face.
        assert covered[face].max() < 0.01
        assert torch.equal(covered[chest], plain[chest])
    # The texture that other programs get follows the same rule.
    avatar = Avatar(model, model.encode(cloth), cloth, SIZE)
    assert avatar.observed_texture(layout.size).visibility[face].max() < 0.01


def test_the_photograph_of_a_mouth_reaches_a_little_beyond_what_is_seen(model: AvatarModel) -> None:
    photo = photo_of(model, Region.FACE_SKIN)
    vertices_px = model.project(model.head(photo.params), photo.params, photo.image_size)
    surface = surface_of(model.head, 256)
    bare = surface.completion.bare
    exact = observe(photo, vertices_px, model.head.faces, surface.layout, model.rasterizer, bare)
    reached = model.texture_model.observe(photo, vertices_px, surface)
    inside = surface.completion.is_interior > 0.5
    assert torch.equal(reached.visibility, exact.visibility)
    assert torch.equal(reached.unhidden[~inside], exact.unhidden[~inside])
    grown = (reached.unhidden - exact.unhidden)[inside]
    assert grown.min() >= 0
    assert grown.max() > 0.5
    # A few texels, not the whole mouth.
    assert float((grown > 0.01).float().mean()) < 0.5
