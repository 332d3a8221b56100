"""The pixels of each region of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline

from rome_lightning.evaluation.regions import inside_polygon, region_weight
from rome_lightning.types import Frames, HeadParams, Region

SIZE = 48
FACE = torch.tensor([True])


def frame(regions: torch.Tensor) -> Frames:
    return Frames(
        torch.zeros(1, 3, SIZE, SIZE),
        torch.ones(1, 1, SIZE, SIZE),
        regions[None].to(torch.uint8),
        torch.zeros(1, 478, 2),
        HeadParams.neutral(1, 1, 1),
    )


def stripes() -> torch.Tensor:
    """Each region as a band of columns, from the top to the bottom."""
    return (torch.arange(SIZE) // (SIZE // 7)).clamp(max=6).expand(SIZE, SIZE)


def test_polygons_hold_the_pixels_that_matplotlib_says() -> None:
    rng = np.random.default_rng(0)
    for number in (3, 5, 20):
        corners = rng.uniform(-5, SIZE + 5, (number, 2))
        x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
        # Even-odd rule, because outlines may cross themselves.
        hull = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T))]
        ours = inside_polygon(torch.from_numpy(hull)[None], (SIZE, SIZE))[0].numpy()
        theirs = Outline(hull, closed=False).contains_points(np.stack([x, y], -1).reshape(-1, 2))
        assert (ours == theirs.reshape(SIZE, SIZE)).all()
        assert ours.any()


@pytest.mark.parametrize(
    ("choice", "labels"),
    [("hair", {Region.HAIR}), ("head", {Region.HAIR, Region.FACE_SKIN, Region.OTHER})],
)
def test_regions_of_the_map_need_no_face(choice: str, labels: set[Region]) -> None:
    weight = region_weight(choice, frame(stripes()), torch.zeros(1, 478, 2), ~FACE)[0, 0]
    wanted = torch.stack([stripes() == int(label) for label in labels]).any(0)
    assert torch.equal(weight > 0, wanted)


def test_shoulders_are_clothes_and_skin_below_the_chin() -> None:
    landmarks = torch.zeros(1, 478, 2)
    landmarks[0, 152, 1] = 30
    weight = region_weight("shoulders", frame(stripes()), landmarks, FACE)[0, 0]
    wanted = (stripes() == int(Region.CLOTHES)) | (stripes() == int(Region.BODY_SKIN))
    wanted[:31] = False
    assert torch.equal(weight > 0, wanted)
    assert not region_weight("shoulders", frame(stripes()), landmarks, ~FACE).any()


def mouth(gap: float) -> torch.Tensor:
    """Inner lips as a lens, 24 pixels wide."""
    landmarks = torch.zeros(1, 478, 2)
    lower, upper = (
        (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
        (191, 80, 81, 82, 13, 312, 311, 310, 415),
    )
    for place, index in enumerate(lower):
        t = place / 10
        landmarks[0, index] = torch.tensor([12 + 24 * t, 24 + gap / 2 * 4 * t * (1 - t)])
    for place, index in enumerate(upper):
        t = (place + 1) / 10
        landmarks[0, index] = torch.tensor([12 + 24 * t, 24 - gap / 2 * 4 * t * (1 - t)])
    return landmarks


def test_a_mouth_counts_where_it_is_open() -> None:
    real = frame(torch.zeros(SIZE, SIZE))
    weight = region_weight("mouth", real, mouth(8.0), FACE)[0, 0]
    # A parabola above and one below the middle: 2/3 of the box.
    assert float(weight.sum()) == pytest.approx(2 / 3 * 24 * 8, rel=0.08)
    assert weight[24, 24] == 1
    assert not weight[:20].any()
    assert not weight[29:].any()
    assert not region_weight("mouth", real, mouth(3.0), FACE).any()
    assert not region_weight("mouth", real, mouth(8.0), ~FACE).any()


def test_eyes_have_an_area_when_they_are_shut() -> None:
    landmarks = torch.zeros(1, 478, 2)
    # One horizontal, the other inclined by 45 degrees; only their corners matter.
    landmarks[0, 33], landmarks[0, 133] = torch.tensor([[5.0, 10], [15, 10]])
    landmarks[0, 362], landmarks[0, 263] = torch.tensor([[30.0, 30], [38, 38]])
    weight = region_weight("eyes", frame(torch.zeros(SIZE, SIZE)), landmarks, FACE)[0, 0]
    assert float(weight[:20, :20].sum()) == pytest.approx(14 * 8, rel=0.15)
    assert float(weight[22:, 22:].sum()) == pytest.approx(1.4 * 0.8 * 128, rel=0.1)
    assert weight[10, 10] == 1
    assert weight[10 + 6, 10] == 0
