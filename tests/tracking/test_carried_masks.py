"""Masks carried along the flow, against masks whose true place is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from datamodules.prepare import PrepareConfig
from datamodules.prepare.parts import default_tracker
from rome_lightning.head import load_head
from rome_lightning.tracking import masks as making
from rome_lightning.tracking.carried_masks import CarryRule, Masks, carry
from rome_lightning.tracking.masks import MaskMaker
from rome_lightning.tracking.segmenter import Segmentation
from rome_lightning.types import Region

SIZE = 256
STEP = (3.5, -2.25)
"""Movement of the camera from frame to frame, pixels."""


def seen(photo: np.ndarray, number: float) -> np.ndarray:
    """A part of a photograph or mask from a camera that moves along it."""
    x, y = 100 + STEP[0] * number, 60 + STEP[1] * number
    place = np.array([[1, 0, -x], [0, 1, -y]])
    picture: np.ndarray = cv2.warpAffine(photo, place, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    return picture


def masks_of(photo: np.ndarray, number: float) -> Masks:
    """A head and shoulders with soft edges, in three classes, at their true places."""
    matte = np.zeros(photo.shape[:2], np.float32)
    cv2.ellipse(matte, (230, 140), (55, 80), 0, 0, 360, 1, -1)
    cv2.ellipse(matte, (230, 330), (130, 110), 0, 0, 360, 1, -1)
    regions = [matte, np.zeros_like(matte), np.zeros_like(matte)]
    cv2.ellipse(regions[1], (230, 330), (130, 110), 0, 0, 360, 1, -1)
    cv2.ellipse(regions[2], (230, 160), (45, 60), 0, 0, 360, 1, -1)
    person, clothes, face = (seen(region, number) > 0.5 for region in regions)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for place, region in ((person, Region.HAIR), (clothes, Region.CLOTHES), (face, Region.FACE_SKIN)):
        labels[place] = int(region)
    return Masks(labels, seen(cv2.GaussianBlur(matte, (0, 0), 2), number))


def frames_of(photo: np.ndarray, count: int) -> np.ndarray:
    return np.stack([seen(photo, number) for number in range(count)])


def test_masks_move_with_the_picture(astronaut: np.ndarray) -> None:
    carried = carry(frames_of(astronaut, 3), masks_of(astronaut, 0), masks_of(astronaut, 2), CarryRule())
    assert carried is not None
    true, still = masks_of(astronaut, 1), masks_of(astronaut, 0)
    inner = (slice(12, -12), slice(12, -12))
    error, moved = (np.abs(matte - true.matte)[inner] for matte in (carried.matte, still.matte))
    assert moved.max() > 0.5
    assert error.max() < 0.15
    assert error.mean() < 0.1 * moved.mean()
    other, kept = ((labels != true.labels)[inner].mean() for labels in (carried.labels, still.labels))
    assert kept > 0.02
    assert other < 0.005


def test_masks_of_large_pictures(astronaut: np.ndarray) -> None:
    """The flow is that of smaller pictures."""

    def enlarged(masks: Masks) -> Masks:
        return Masks(
            cv2.resize(masks.labels, (512, 512), interpolation=cv2.INTER_NEAREST),
            cv2.resize(masks.matte, (512, 512)),
        )

    pictures = np.stack([cv2.resize(frame, (512, 512)) for frame in frames_of(astronaut, 3)])
    before, true, after = (enlarged(masks_of(astronaut, number)) for number in range(3))
    carried = carry(pictures, before, after, CarryRule())
    assert carried is not None
    inner = (slice(24, -24), slice(24, -24))
    assert (
        np.abs(carried.matte - true.matte)[inner].mean()
        < 0.1 * np.abs(before.matte - true.matte)[inner].mean()
    )
    assert (carried.labels != true.labels)[inner].mean() < 0.01


def test_something_new_is_not_carried(astronaut: np.ndarray) -> None:
    """A hand before the mouth in one frame only: both neighbours agree, but it is there."""
    frames = frames_of(astronaut, 3)
    before, after = masks_of(astronaut, 0), masks_of(astronaut, 2)
    cv2.ellipse(frames[1], (130, 130), (30, 18), 20, 0, 360, (150, 110, 90), -1)
    assert carry(frames, before, after, CarryRule()) is None
    assert carry(frames, before, after, CarryRule(max_other=1.0)) is not None


@pytest.mark.parametrize("part", ["labels", "matte"])
def test_neighbours_that_disagree_are_not_carried(astronaut: np.ndarray, part: str) -> None:
    frames = frames_of(astronaut, 3)
    before, after = masks_of(astronaut, 0), masks_of(astronaut, 2)
    if part == "labels":
        before.labels[100:140, 100:130] = int(Region.OTHER)
    else:
        before.matte[:] = np.roll(before.matte, 12, 1)
    assert carry(frames, before, after, CarryRule()) is None
    looser = CarryRule(max_labels=1.0, max_matte=1.0)
    assert carry(frames, before, after, looser) is not None


class Networks:
    """Stand-ins for both networks that know the true masks by the frames' first pixels, and count."""

    def __init__(self, frames: np.ndarray, masks: list[Masks]) -> None:
        self.frames, self.masks = frames, masks
        self.segmented: list[int] = []
        self.matted: list[int] = []

    def _number(self, image: np.ndarray) -> int:
        return next(i for i, frame in enumerate(self.frames) if np.array_equal(frame, image))

    def segment(self, images: np.ndarray, progress: object = None) -> Segmentation:
        numbers = [self._number(image) for image in images]
        self.segmented += numbers
        labels = torch.from_numpy(np.stack([self.masks[number].labels for number in numbers]))
        return Segmentation(labels, (labels > 0).half())

    def matte(self, images: np.ndarray, person: object = None, progress: object = None) -> torch.Tensor:
        numbers = [self._number(image) for image in images]
        self.matted += numbers
        return torch.from_numpy(np.stack([self.masks[number].matte for number in numbers])).half()


def made(
    frames: np.ndarray, masks: list[Masks], rule: CarryRule | None
) -> tuple[torch.Tensor, torch.Tensor, Networks]:
    networks = Networks(frames, masks)
    labels, matte = MaskMaker(networks, networks, rule).make(frames)  # type: ignore[arg-type]
    assert networks.segmented == networks.matted
    return labels, matte, networks


@pytest.fixture
def threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def test_only_frames_between_agreeing_ones_are_carried(astronaut: np.ndarray) -> None:
    frames = frames_of(astronaut, 8)
    cv2.ellipse(frames[3], (130, 130), (30, 18), 20, 0, 360, (150, 110, 90), -1)
    masks = [masks_of(astronaut, number) for number in range(8)]
    every = made(frames, masks, None)
    assert every[2].segmented == list(range(8))
    labels, matte, networks = made(frames, masks, CarryRule())
    # The last of eight has no frame behind it; the fourth shows something else.
    assert networks.segmented == [0, 2, 4, 6, 7, 3]
    for number in (0, 2, 3, 4, 6, 7):
        assert torch.equal(labels[number], every[0][number])
        assert torch.equal(matte[number], every[1][number])
    for number in (1, 5):
        assert 0 < (labels[number] != every[0][number]).float().mean() < 0.01
        assert (matte[number] - every[1][number]).float().abs().mean() < 0.005


def test_flow_runs_on_one_thread(
    astronaut: np.ndarray, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which its result depends on; afterwards OpenCV has its threads back."""
    used = []

    def noted(*arguments: Any) -> Masks | None:
        used.append(cv2.getNumThreads())
        return carry(*arguments)

    monkeypatch.setattr(making, "carry", noted)
    cv2.setNumThreads(3)
    made(frames_of(astronaut, 5), [masks_of(astronaut, number) for number in range(5)], CarryRule())
    assert used == [1, 1]
    assert cv2.getNumThreads() == 3


def test_short_clips_are_computed(astronaut: np.ndarray) -> None:
    frames, masks = frames_of(astronaut, 2), [masks_of(astronaut, number) for number in range(2)]
    assert made(frames, masks, CarryRule())[2].segmented == [0, 1]


def test_prepare_hands_on_its_option() -> None:
    head = load_head("open")
    assert default_tracker(head, PrepareConfig()).carry_rule is None
    assert default_tracker(head, PrepareConfig(carry_masks=True)).carry_rule == CarryRule()
    # Shards with other masks are other shards; those without keep their hash.
    settings = [PrepareConfig(carry_masks=on).clip_settings() for on in (True, False)]
    assert settings[0] == settings[1] | {"carry_masks": True}
    assert "carry_masks" not in settings[1]
