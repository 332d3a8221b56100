"""The neural rendering in one image, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SIZE, perturbed, random_frames, random_params, small_config
from PIL import Image

from rome_lightning.avatar import Avatar
from rome_lightning.export import flipbook
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel


@pytest.fixture(scope="module")
def avatar(head: HeadModel) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval()
    return Avatar.create(model, random_frames(head, 1), refine_steps=0)


def test_every_cell_is_the_render_of_its_frame(avatar: Avatar, tmp_path: Path) -> None:
    driver = random_params(avatar.model.head, 5, seed=3)
    picture, document = flipbook.export_flipbook(avatar, tmp_path / "new" / "book.png", driver, 12.5)
    about = json.loads(document.read_text())
    assert about == {
        "format": "rome-flipbook/1",
        "image": "book.png",
        "columns": 3,
        "rows": 2,
        "frame_width": SIZE,
        "frame_height": SIZE,
        "frames": 5,
        "fps": 12.5,
    }
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (2 * SIZE, 3 * SIZE, 4)
    for index in range(5):
        top, left = index // 3 * SIZE, index % 3 * SIZE
        cell = torch.from_numpy(pixels[top : top + SIZE, left : left + SIZE].copy()).permute(2, 0, 1) / 255
        over_grey = cell[:3] * cell[3:] + 0.5 * (1 - cell[3:])
        drawn = next(avatar.draw(driver[slice(index, index + 1)], background=0.5)).image[0]
        torch.testing.assert_close(over_grey, drawn.clamp(0, 1), atol=0.01, rtol=0)
    assert not pixels[SIZE:, 2 * SIZE :].any()


def test_too_many_frames_for_a_graphics_card(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flipbook, "LARGEST_SIDE", 2 * SIZE)
    with pytest.raises(ValueError, match="4 frames fit: set --max-frames"):
        flipbook.export_flipbook(avatar, tmp_path / "a.png", random_params(avatar.model.head, 5), 25.0)
    assert not list(tmp_path.iterdir())
