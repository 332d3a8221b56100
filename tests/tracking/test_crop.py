"""The square of a clip: place, exact mapping, padding."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from tiny_run import need

from rome_lightning.tracking import FaceDetector
from rome_lightning.tracking.crop import RELEASE_RULE, Crop, CropRule, crop_clip
from rome_lightning.types.landmarks import IBUG68


def face(x: float, y: float, height: float = 100.0, count: int = 40) -> torch.Tensor:
    """Landmarks (1, count, 2) that fill a box with a frontal face's proportions around (x, y)."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(1, count, 2, generator=generator) - 0.5
    unit[0, 0], unit[0, 1] = torch.tensor([-0.5, -0.5]), torch.tensor([0.5, 0.5])
    return unit * torch.tensor([0.83 * height, height]) + torch.tensor([x, y])


def test_a_still_face_gets_the_zoom_of_the_rule() -> None:
    crop = crop_clip(face(500, 400), (1000, 1000))
    assert crop.side == pytest.approx(220, abs=2)
    assert crop.left + crop.side / 2 == pytest.approx(500, abs=2)
    assert crop.top + crop.side / 2 == pytest.approx(398, abs=2)


def test_motion_enlarges_the_square_and_one_bad_frame_does_not() -> None:
    walk = torch.cat([face(400 + i, 400) for i in range(150)])
    crop = crop_clip(walk, (1000, 1000))
    assert crop.side > 260
    low, high = walk.amin((0, 1)), walk.amax((0, 1))
    assert crop.left < low[0] - 20
    assert crop.left + crop.side > high[0] + 20
    still = torch.cat([face(400, 400)] * 100 + [face(900, 900)])
    assert crop_clip(still, (1000, 1000)) == crop_clip(still[:100], (1000, 1000))


def test_the_square_stays_in_the_frame_where_it_can() -> None:
    corner = crop_clip(face(60, 70), (500, 500))
    assert (corner.left, corner.top) == (0, 0)
    assert bool(corner.inside(64).all())
    tight = crop_clip(face(300, 100), (200, 600))
    assert tight.side == 200
    assert tight.top == 0


def test_a_face_too_large_for_the_frame_is_padded() -> None:
    crop = crop_clip(face(100, 90, height=150), (180, 200))
    assert crop.side == pytest.approx(1.65 * 150, abs=2)
    assert crop.left <= 0
    assert crop.left + crop.side >= 200
    inside = crop.inside(128)
    assert float(inside.float().mean()) == pytest.approx(180 * 200 / crop.side**2, abs=0.02)


def test_a_photos_square_grows_upward_and_then_moves() -> None:
    rule = CropRule()
    crop = crop_clip(face(500, 400), (1000, 1000))
    bottom, middle = crop.top + crop.side, crop.left + crop.side / 2
    taller = crop.reaching(crop.top - 40, rule)
    assert (taller.top, taller.side) == (crop.top - 40, crop.side + 40)
    assert taller.left + taller.side / 2 == pytest.approx(middle, abs=1)
    # As large as the rule allows, then up by the rest that it allows.
    highest = crop.reaching(0, rule)
    assert highest.side == pytest.approx(300, abs=3)
    assert highest.top == pytest.approx(bottom - 300 - 0.15 * 300, abs=4)
    # Little space beside it: it may be somewhat wider than the photo, then it moves.
    narrow = crop_clip(face(110, 400), (1000, 220))
    wider = narrow.reaching(narrow.top - 20, rule)
    assert (wider.top, wider.side, wider.left) == (narrow.top - 20, 240, -10)
    moved = narrow.reaching(narrow.top - 50, rule)
    assert (moved.top, moved.side) == (narrow.top - 50, round(1.12 * 220))
    assert (RELEASE_RULE.max_overhang, RELEASE_RULE.max_raise) == (0, 0)


def test_released_models_get_the_square_of_the_releases_demo() -> None:
    need("face_landmarker")
    photo = skimage.data.astronaut()
    landmarks = FaceDetector().detect(photo[None]).landmarks
    # infer.py of the release, with the 68 points at the same places.
    points = np.stack([landmarks[0, list(rows)].numpy().mean(0) for rows in IBUG68])
    extent = np.ptp(points, axis=0).max()
    centre = (points.min(0) + points.max(0)) / 2 - [0, extent / 6]
    crop = crop_clip(landmarks, photo.shape[:2], RELEASE_RULE)
    assert crop.side == pytest.approx(2 * extent, rel=0.05)
    middle = np.array([crop.left, crop.top]) + crop.side / 2 - 0.5
    assert np.abs(middle - centre).max() < 0.05 * crop.side


def test_landmarks_and_pixels_are_mapped_alike() -> None:
    """A dot drawn in the frame appears where its landmark is mapped."""
    frame = np.zeros((300, 400, 3), np.uint8)
    x, y = 210, 120
    frame[y - 1 : y + 2, x - 1 : x + 2] = 255
    crop = Crop(left=101, top=37, side=173, frame_size=(300, 400))
    for size in (64, 173, 256, 400):
        picture = crop.extract(frame, size)[..., 0].astype(float)
        rows, columns = np.mgrid[:size, :size]
        found = np.array([(picture * columns).sum(), (picture * rows).sum()]) / picture.sum()
        mapped = crop.to_crop(torch.tensor([[float(x), float(y), 10.0]]), size)[0]
        # The dot is symmetric, so its centre of mass is exact up to rounding to 8 bits.
        assert mapped[:2].numpy() == pytest.approx(found, abs=0.03)
        assert mapped[2] == pytest.approx(10 * size / 173)


def test_mapping_has_an_inverse() -> None:
    crop = Crop(left=-20, top=35, side=301, frame_size=(480, 640))
    points = torch.rand(5, 478, 3, generator=torch.Generator().manual_seed(1)) * 300
    assert torch.allclose(crop.to_frame(crop.to_crop(points, 256), 256), points, atol=1e-3)


def test_padding_repeats_the_border_and_is_marked() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    crop = Crop(left=-10, top=-5, side=80, frame_size=(50, 60))
    picture = crop.extract(frame, 80)
    inside = crop.inside(80).numpy()
    assert np.array_equal(picture[5:55, 10:70], frame)
    assert (picture[:5, 10:70] == frame[0]).all()
    assert (picture[55:, 10:70] == frame[-1]).all()
    expected = np.zeros((80, 80), bool)
    expected[5:55, 10:70] = True
    assert np.array_equal(inside, expected)


def test_downsampling_averages() -> None:
    """A checkerboard of single pixels becomes grey, without aliasing."""
    y, x = np.mgrid[:512, :512]
    frame = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture = Crop(0, 0, 512, (512, 512)).extract(frame, 100)
    assert abs(float(picture.mean()) - 127.5) < 2
    assert picture[2:-2, 2:-2].std() < 4


def test_errors() -> None:
    with pytest.raises(ValueError, match="without a single usable face"):
        crop_clip(torch.zeros(0, 478, 2), (100, 100))
    with pytest.raises(ValueError, match="min_zoom <= zoom"):
        CropRule(zoom=1.5)
    with pytest.raises(ValueError, match="zoom <= max_zoom"):
        CropRule(max_zoom=2)
    with pytest.raises(ValueError, match=r"this crop is for frames of \(50, 60\)"):
        Crop(0, 0, 10, (50, 60)).extract(np.zeros((60, 50, 3), np.uint8), 10)
