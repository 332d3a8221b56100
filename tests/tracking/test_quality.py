"""Quality measures on synthetic detections."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rome_lightning.tracking.quality import continuous_shot, covered_ratio, worn, yaw_degrees
from rome_lightning.types import Region
from rome_lightning.types.landmarks import FACE_OVAL, LEFT_IRIS, RIGHT_IRIS


def round_face(size: int = 100, radius: float = 40.0) -> torch.Tensor:
    points = torch.full((1, 478, 2), size / 2)
    for index, landmark in enumerate(FACE_OVAL):
        angle = 2 * math.pi * index / len(FACE_OVAL)
        points[0, landmark] += radius * torch.tensor([math.sin(angle), -math.cos(angle)])
    return points


def face_with_eyes() -> torch.Tensor:
    """A round face with its eyes a little above the middle, forehead to chin 80 pixels."""
    points = round_face()
    points[0, LEFT_IRIS[0]] = torch.tensor([65.0, 45.0])
    points[0, RIGHT_IRIS[0]] = torch.tensor([35.0, 45.0])
    return points


def test_things_at_the_height_of_the_eyes_are_eyewear_and_elsewhere_a_cover() -> None:
    inside = torch.ones(100, 100, dtype=torch.bool)
    skin = torch.full((1, 100, 100), int(Region.FACE_SKIN), dtype=torch.uint8)
    glasses, hand, cup, hat = skin.clone(), skin.clone(), skin.clone(), skin.clone()
    glasses[:, 38:55, 20:80] = Region.OTHER
    hand[:, 38:55, 20:80] = Region.BODY_SKIN
    cup[:, 70:90, 30:70] = Region.OTHER
    hat[:, :12] = Region.OTHER
    covered = [float(covered_ratio(face_with_eyes(), labels, inside)) for labels in (glasses, hand, cup, hat)]
    assert covered[0] == covered[3] == 0
    assert covered[1] > 0.2
    assert covered[2] > 0.05
    shares = [worn(face_with_eyes()[0], labels[0], inside) for labels in (glasses, hand, cup, hat)]
    assert shares[0]["eyewear"] > 0.4
    assert [share["eyewear"] for share in shares[1:]] == [0, 0, 0]
    assert [share["headwear"] for share in shares[:3]] == [0, 0, 0]
    assert shares[3]["headwear"] > 0.9
    beard = skin.clone()
    beard[:, 75:] = Region.HAIR
    assert worn(face_with_eyes()[0], beard[0], inside)["lower_hair"] > 0.5
    assert float(covered_ratio(face_with_eyes(), beard, inside)) == 0


def test_zones_turn_with_the_face() -> None:
    inside = torch.ones(100, 100, dtype=torch.bool)
    labels = torch.full((1, 100, 100), int(Region.FACE_SKIN), dtype=torch.uint8)
    labels[:, 38:55, 20:80] = Region.OTHER
    turned = face_with_eyes().flip(-1)
    assert float(covered_ratio(turned, labels.transpose(1, 2), inside)) == 0
    assert float(covered_ratio(turned, labels, inside)) > 0.1


def test_covered_ratio_is_the_share_of_foreign_labels() -> None:
    inside = torch.ones(100, 100, dtype=torch.bool)
    skin = torch.full((1, 100, 100), int(Region.FACE_SKIN), dtype=torch.uint8)
    assert covered_ratio(round_face(), skin, inside).tolist() == [0]
    fringe = skin.clone()
    fringe[:, :30] = Region.HAIR
    assert covered_ratio(round_face(), fringe, inside).tolist() == [0]
    for label in (Region.BODY_SKIN, Region.CLOTHES, Region.BACKGROUND):
        hand = skin.clone()
        hand[:, :, 50:] = label
        assert covered_ratio(round_face(), hand, inside)[0] == pytest.approx(0.5, abs=0.02)
    # The neck under the chin does not cover the face, nor do areas beyond the video.
    neck = skin.clone()
    neck[:, 88:] = Region.BODY_SKIN
    assert covered_ratio(round_face(), neck, inside).tolist() == [0]
    hand[:, :, 50:] = Region.BACKGROUND
    inside[:, 50:] = False
    assert covered_ratio(round_face(), hand, inside).tolist() == [0]


@pytest.mark.parametrize("degrees", [-80, -30, 0, 10, 75])
def test_yaw(degrees: float) -> None:
    pose = torch.eye(4)[None].clone()
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    pose[0, :3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    assert yaw_degrees(pose)[0] == pytest.approx(abs(degrees), abs=1e-3)


def boxes(*centres: float, height: float = 100.0) -> torch.Tensor:
    return torch.tensor([[x - 40, 50 - height / 2, x + 40, 50 + height / 2] for x in centres])


def shot(frames: np.ndarray, places: torch.Tensor, fps: float = 25.0) -> list[bool]:
    found = torch.ones(len(places), dtype=torch.bool)
    return continuous_shot(frames, places, found, fps).tolist()


def test_a_jump_to_something_else_is_skipped_and_the_rest_kept() -> None:
    frames = np.zeros((7, 32, 32, 3), np.uint8)
    places = boxes(100, 104, 108, 400, 112, 116, 120)
    assert shot(frames, places) == [True, True, True, False, True, True, True]


def test_another_person_in_the_same_picture() -> None:
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    assert shot(frames, boxes(100, 100, 100, 400, 400, 400, 400, 400)) == [False] * 3 + [True] * 5


def test_fast_motion_at_a_low_rate_is_no_jump() -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    places = boxes(100, 155, 100, 155)
    assert shot(frames, places, fps=5.0) == [True] * 4
    assert shot(frames, places, fps=25.0) == [True, False, True, False]


def test_a_cut_ends_the_shot() -> None:
    rng = np.random.default_rng(0)
    scenes = [np.full((48, 48, 3), value, np.uint8) + rng.integers(0, 20, (48, 48, 3)) for value in (20, 200)]
    frames = np.stack([scenes[0]] * 3 + [scenes[1]] * 5).astype(np.uint8)
    assert shot(frames, boxes(*[100] * 8)) == [False] * 3 + [True] * 5


def test_a_flash_does_not_end_the_shot() -> None:
    frames = np.full((5, 48, 48, 3), 90, np.uint8)
    frames[2] = 255
    assert shot(frames, boxes(*[100] * 5)) == [True, True, False, True, True]
