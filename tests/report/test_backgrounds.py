"""Backgrounds of an avatar, and the sizes of its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import perturbed, random_frames, small_config
from PIL import Image

from rome_lightning.avatar import Avatar
from rome_lightning.export.mesh_picture import draw_mesh
from rome_lightning.models import AvatarModel
from rome_lightning.report.backgrounds import composed, draw_layers, read_background
from rome_lightning.types import Frames
from rome_lightning.types.params import at_rest

SIZE = 64


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """A person in the middle of a photograph that is blue on the left and green on the right."""
    model = perturbed(AvatarModel(small_config())).eval()
    photo = random_frames(model.head, 1)
    image = torch.zeros(1, 3, SIZE, SIZE)
    image[:, 2, :, : SIZE // 2] = image[:, 1, :, SIZE // 2 :] = 1
    matte = torch.zeros(1, 1, SIZE, SIZE)
    matte[..., 16:48, 20:44] = 1
    image = torch.where(matte > 0, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1), image)
    changes = {"image": image, "foreground_mask": matte}
    return Avatar.create(model, Frames(**vars(photo) | changes), refine_steps=0)


def test_the_photographs_background_has_no_person_in_it(avatar: Avatar) -> None:
    behind = read_background("photo", avatar, (SIZE, SIZE))
    assert behind is not None
    # Only the person is red.
    assert float(behind[0].max()) < 0.02
    assert behind[:, 32, 2].tolist() == pytest.approx([0, 0, 1], abs=0.02)
    assert behind[:, 32, 61].tolist() == pytest.approx([0, 1, 0], abs=0.02)


def test_colours_and_pictures(avatar: Avatar, tmp_path: Path) -> None:
    colour = read_background("#ff8000", avatar, (8, 8))
    assert colour is not None
    torch.testing.assert_close(colour[:, 3, 3], torch.tensor([1, 128 / 255, 0]))
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    middle = read_background(str(tmp_path / "wide.png"), avatar, (40, 40))
    assert middle is not None
    assert middle.shape == (3, 40, 40)
    torch.testing.assert_close(middle[:, 20, 20] * 255, torch.tensor([10.0, 200.0, 30.0]), atol=1, rtol=0)
    assert read_background("transparent", avatar, (8, 8)) is None
    with pytest.raises(ValueError, match="#rrggbb"):
        read_background("#12", avatar, (8, 8))
    with pytest.raises(FileNotFoundError, match="white, photo, transparent"):
        read_background("purple", avatar, (8, 8))


def test_layers_over_a_background_are_the_picture(avatar: Avatar) -> None:
    params = avatar.source.params
    rendered = next(avatar.draw(params))
    rgb, mask = next(draw_layers(avatar, params, avatar.image_size))
    on_white = composed(rgb, mask, torch.ones(3, SIZE, SIZE))[0]
    expected = (rendered.image[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(on_white, expected, atol=1.01)
    transparent = composed(rgb, mask, None)[0]
    assert transparent.shape == (SIZE, SIZE, 4)
    np.testing.assert_allclose(transparent[..., 3], 255 * mask[0, 0].numpy(), atol=0.51)


@pytest.mark.parametrize("size", [48, 96])
def test_other_sizes_show_the_same(avatar: Avatar, size: int) -> None:
    params = avatar.source.params
    for draw in (draw_layers, draw_mesh):
        _, own = next(draw(avatar, params, (SIZE, SIZE)))
        rgb, mask = next(draw(avatar, params, (size, size)))
        assert rgb.shape == (1, 3, size, size)
        resized = torch.nn.functional.interpolate(mask, (SIZE, SIZE), mode="bilinear", antialias=True)
        # The same pixels are covered, except at edges.
        assert float(((resized > 0.5) == (own > 0.5)).float().mean()) > 0.9


def test_the_mesh_is_drawn_where_the_model_has_it(avatar: Avatar) -> None:
    params = at_rest(avatar.source.params)
    rgb, mask = next(draw_mesh(avatar, params, (SIZE, SIZE)))
    covered = next(avatar.draw(params)).mesh_mask.float()
    face = avatar.model.head.region("face")
    points = avatar.model.project(avatar.rest_mesh().vertices, params, (SIZE, SIZE))[0, face]
    rows = slice(0, int(points[:, 1].max()) - 2)
    assert float((mask - covered)[..., rows, :].abs().mean()) < 0.03
    # The photograph's person is red, and so is the face of the mesh.
    x, y = points.mean(0)[:2].long().tolist()
    assert float(rgb[0, 0, y, x]) > float(rgb[0, 1, y, x])
