"""A baked texture keeps what was seen, mirrors what was not, and has no holes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rome_lightning.export import bake_colour_texture
from rome_lightning.export.colour_texture import SKIN
from rome_lightning.head import HeadModel
from rome_lightning.models.interior import IRIS, SCLERA
from rome_lightning.renderer import UVLayout

SIZE = 128


@pytest.fixture(scope="module")
def layout(head: HeadModel) -> UVLayout:
    return UVLayout(head.faces, head.uvs, head.uv_faces, SIZE)


@pytest.fixture(scope="module")
def positions(head: HeadModel, layout: UVLayout) -> Tensor:
    """Surface point of each texel on the mean head, metres."""
    vertices = head.template.view(-1, 3)
    if head.midpoints is not None:
        vertices = torch.cat([vertices, vertices[head.midpoints].mean(1)])
    return layout.gather(vertices[None])[0]


def region(head: HeadModel, layout: UVLayout, *names: str) -> Tensor:
    """Texels wholly inside regions."""
    return layout.gather(head.region(*names).float()[None, :, None])[0, 0] > 0.999


def pattern(positions: Tensor) -> Tensor:
    """Symmetric bands of skin colours."""
    bands = 0.6 + 0.2 * torch.sin(120 * positions[1])
    return torch.stack([bands, 0.8 * bands, 0.7 * bands])


def test_what_was_seen_is_kept(head: HeadModel, layout: UVLayout, positions: Tensor) -> None:
    colour = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    visibility = layout.mask.float()[None]
    baked = bake_colour_texture(head, colour, visibility)
    torch.testing.assert_close(baked[:, layout.mask], colour[:, layout.mask], atol=1e-5, rtol=0)


def test_the_hidden_half_mirrors_the_seen_one(head: HeadModel, layout: UVLayout, positions: Tensor) -> None:
    colour = pattern(positions)
    visibility = (layout.mask & (positions[0] < 0.005)).float()[None]
    baked = bake_colour_texture(head, torch.where(visibility > 0, colour, 9.0), visibility)
    hidden = region(head, layout, "face", "ears", "scalp") & (positions[0] > 0.01)
    error = (baked - colour)[:, hidden].abs()
    # The mirrored texel is the nearest one: up to half a texel off, and 30 % of it is smoothed.
    assert error.mean() < 0.03
    assert colour[:, hidden].std() > 0.1


def test_mirrored_colours_take_the_light_of_their_side(
    head: HeadModel, layout: UVLayout, positions: Tensor
) -> None:
    light = torch.where(positions[0] > 0, 0.6, 1.0)
    colour = torch.full((3, SIZE, SIZE), 0.8) * light
    wanted = (positions - torch.tensor([0.045, -0.02, 0.07]).view(3, 1, 1)).norm(dim=0)
    wanted[~region(head, layout, "face")] = torch.inf
    centre = positions.flatten(1)[:, wanted.argmin()]
    cheek = (positions - centre.view(3, 1, 1)).norm(dim=0) < 0.015
    visibility = (layout.mask & ~cheek).float()[None]
    baked = bake_colour_texture(head, colour, visibility)
    inner = cheek & region(head, layout, "face")
    assert inner.sum() > 50
    assert baked[:, inner].mean() == pytest.approx(0.48, abs=0.04)


def test_no_texel_is_empty(head: HeadModel, layout: UVLayout, positions: Tensor) -> None:
    front = layout.mask & (positions[2] > 0.05)
    colour = torch.tensor([0.7, 0.5, 0.4]).view(3, 1, 1) * front
    baked = bake_colour_texture(head, colour, front.float()[None])
    assert baked.isfinite().all()
    assert baked.min() > 0.03
    assert baked.max() <= 1
    # One colour was seen: all skin, back and padding included, has that colour.
    skin = region(head, layout, "face", "scalp", "neck")
    seen = torch.tensor([0.7, 0.5, 0.4]).view(3, 1)
    assert (baked[:, skin] - seen).abs().max() < 0.02


def test_hair_does_not_run_into_the_shoulders(head: HeadModel, layout: UVLayout, positions: Tensor) -> None:
    hair, clothes = region(head, layout, "scalp"), region(head, layout, "shoulders")
    colour = 0.5 + 0.4 * clothes.float() - 0.4 * hair.float()
    seen = layout.mask & (positions[2] > 0)
    baked = bake_colour_texture(head, colour.expand(3, -1, -1), seen.float()[None])
    assert baked[:, clothes & ~seen].mean() > 0.86
    assert baked[:, hair & ~seen].mean() < 0.15


def test_eyes_and_mouth_have_their_own_colours(head: HeadModel, layout: UVLayout, positions: Tensor) -> None:
    skin = region(head, layout, "face")
    colour = torch.tensor([0.7, 0.5, 0.4]).view(3, 1, 1) * skin
    baked = bake_colour_texture(head, colour, skin.float()[None])
    eyes = region(head, layout, "eyes")
    joint = head.joint_template.view(5, 3)[3]
    ahead = torch.nn.functional.normalize(positions - joint.view(3, 1, 1), dim=0)[2]
    ahead[~(eyes & (positions[0] > 0))] = torch.nan
    # An eyeball has 10 texels across at this size, so the centre is iris or pupil.
    centre = baked.flatten(1)[:, ahead.nan_to_num(-1).argmax()]
    assert (centre <= torch.tensor(IRIS) + 0.03).all()
    torch.testing.assert_close(baked[:, ahead < 0.7].mean(1), torch.tensor(SCLERA), atol=0.03, rtol=0)
    mouth = baked[:, region(head, layout, "mouth")]
    assert mouth.std(dim=1).max() > 0.05, "teeth, tongue and cavity differ"


def test_nothing_seen_gives_a_plain_head(head: HeadModel, layout: UVLayout) -> None:
    nothing = torch.zeros(3, SIZE, SIZE)
    baked = bake_colour_texture(head, nothing, nothing[:1])
    skin = region(head, layout, "face")
    torch.testing.assert_close(baked[:, skin].mean(1), torch.tensor(SKIN), atol=0.01, rtol=0)


def test_wrong_shapes_are_refused(head: HeadModel) -> None:
    with pytest.raises(ValueError, match=r"wanted colours \(3, s, s\)"):
        bake_colour_texture(head, torch.zeros(3, 8, 8), torch.zeros(1, 4, 4))
