"""An avatar in its whole photograph: nothing changes around the square, and the square is found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import perturbed, random_frames, small_config
from skimage import data

from rome_lightning.avatar import Avatar
from rome_lightning.media.image import to_uint8
from rome_lightning.models import AvatarModel
from rome_lightning.report.pasting import Pasting, photo_pasting
from rome_lightning.tracking.crop import Crop
from rome_lightning.types import Frames

SIZE = 64


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """A photograph without people."""
    model = perturbed(AvatarModel(small_config())).eval()
    return Avatar.create(model, random_frames(model.head, 1), refine_steps=0)


def pasted(crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """A grey frame, and the same with a red avatar in the right half of the square."""
    frame = np.full((*crop.frame_size, 3), 90, np.uint8)
    rgb, mask = torch.zeros(3, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    rgb[0], mask[..., SIZE // 2 :] = 1, 1
    person = torch.zeros(1, 1, SIZE, SIZE)
    person[..., 20:40, 20:40] = 1
    return frame, Pasting(frame, crop, person)(rgb, mask)


def test_the_square_fades_into_the_frame() -> None:
    crop = Crop(left=40, top=30, side=100, frame_size=(160, 200))
    frame, whole = pasted(crop)
    outside = np.ones(whole.shape[:2], bool)
    outside[30:130, 40:140] = False
    np.testing.assert_array_equal(whole[outside], frame[outside])
    assert whole[80, 120].tolist() == [255, 0, 0]
    # Without avatar and person, the background matches its surroundings.
    assert np.abs(whole[80, 45:85].astype(int) - 90).max() <= 1
    # From the border, the red increases over eight pixels.
    red = whole[80, 130:141, 0].astype(int)
    assert (np.diff(red) <= 0).all()
    assert red[0] == 255
    assert red[-2] < 110


def test_no_fading_at_the_frames_own_border() -> None:
    # The square extends beyond the frame on the right and at the bottom.
    _, whole = pasted(Crop(left=100, top=100, side=120, frame_size=(160, 200)))
    assert whole[140, 199].tolist() == [255, 0, 0]
    assert whole[159, 199].tolist() == [255, 0, 0]


def test_the_photograph_is_found_again(avatar: Avatar) -> None:
    photo = data.astronaut()
    crop = Crop(left=108, top=5, side=234, frame_size=(512, 512))
    square = torch.from_numpy(crop.extract(photo, SIZE)).permute(2, 0, 1)[None] / 255
    changed = {"image": square, "foreground_mask": torch.zeros(1, 1, SIZE, SIZE)}
    photos = Frames(**vars(avatar.photos) | changed)
    own = Avatar(avatar.model, avatar.code, photos, avatar.network_size)
    found = photo_pasting(own, photo)
    assert abs(found.crop.left - crop.left) <= 3
    assert abs(found.crop.side - crop.side) <= 3
    nothing = torch.zeros(3, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    np.testing.assert_allclose(found(*nothing).astype(int), photo.astype(int), atol=1)
    np.testing.assert_array_equal(to_uint8(photos.image)[0], crop.extract(photo, SIZE))


def test_another_photograph_is_refused(avatar: Avatar) -> None:
    with pytest.raises(ValueError, match="--paste-back needs the photograph"):
        photo_pasting(avatar, data.astronaut())
