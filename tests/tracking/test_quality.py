"""Measures of trust, on made-up detections."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rome_lightning.tracking.quality import continuous_shot, covered_ratio, yaw_degrees
from rome_lightning.types import Region
from rome_lightning.types.landmarks import FACE_OVAL


def round_face(size: int = 100, radius: float = 40.0) -> torch.Tensor:
    points = torch.full((1, 478, 2), size / 2)
    for index, landmark in enumerate(FACE_OVAL):
        angle = 2 * math.pi * index / len(FACE_OVAL)
        points[0, landmark] += radius * torch.tensor([math.sin(angle), -math.cos(angle)])
    return points


def test_covered_ratio_is_the_share_of_foreign_labels() -> None:
    inside = torch.ones(100, 100, dtype=torch.bool)
    skin = torch.full((1, 100, 100), int(Region.FACE_SKIN), dtype=torch.uint8)
    assert covered_ratio(round_face(), skin, inside).tolist() == [0]
    fringe = skin.clone()
    fringe[:, :30] = Region.HAIR
    assert covered_ratio(round_face(), fringe, inside).tolist() == [0]
    for label in (Region.BODY_SKIN, Region.OTHER, Region.CLOTHES, Region.BACKGROUND):
        hand = skin.clone()
        hand[:, :, 50:] = label
        assert covered_ratio(round_face(), hand, inside)[0] == pytest.approx(0.5, abs=0.02)
    # The neck under the chin is no cover, nor is what the video does not show.
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


def test_a_jump_to_something_else_is_left_out_and_the_rest_kept() -> None:
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
