"""Frames fitted one at a time match the fit of the whole clip, and lost frames are reported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, Detections
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.live import LiveTracker
from rome_lightning.types import HeadParams

SIZE, NUM_FRAMES = 256, 40


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


@pytest.fixture(scope="module")
def truth(head: HeadModel) -> HeadParams:
    """A head that rotates, opens its mouth and drifts through the image."""
    params = HeadParams.neutral(NUM_FRAMES, head.num_shape, head.num_expression)
    time = torch.linspace(0, 6, NUM_FRAMES)
    params.neck_pose[:, 1] = 0.4 * time.sin()
    params.expression[:, head.expression_names.index("jawOpen")] = 0.5 + 0.4 * (2 * time).sin()
    params.camera[:, 1] = 0.02 * (time / 2).sin()
    params.shape[:] = 0.5 * torch.randn(head.num_shape, generator=torch.Generator().manual_seed(0))
    return params


def detections(head: HeadModel, params: HeadParams) -> Detections:
    """The output of a perfect detector."""
    points = project(head.landmarks(head.to_world(head(params), params)), params.camera, (SIZE, SIZE))
    scores = torch.zeros(len(params), len(BLENDSHAPE_NAMES))
    for index, name in enumerate(BLENDSHAPE_NAMES):
        if name in head.expression_names:
            scores[:, index] = params.expression[:, head.expression_names.index(name)]
    count = len(params)
    return Detections(
        landmarks=points[..., :2],
        depth=points[..., 2],
        blendshapes=scores,
        pose=torch.eye(4).repeat(count, 1, 1),
        found=torch.ones(count, dtype=torch.bool),
        num_faces=torch.ones(count, dtype=torch.int32),
    )


@pytest.fixture
def tracker(head: HeadModel, truth: HeadParams, monkeypatch: pytest.MonkeyPatch) -> LiveTracker:
    """Calibrated with the true shape; a frame's value is the row it shows, 255 shows nobody."""
    live = LiveTracker(head, SIZE)
    seen = detections(head, truth)

    def detect_next(find: Any, frame: np.ndarray) -> Detections | None:
        number = int(frame[0, 0, 0])
        return None if number == 255 else seen[slice(number, number + 1)]

    monkeypatch.setattr(live.tracker, "detector", SimpleNamespace(detect_next=detect_next))
    live.crop = Crop(0, 0, SIZE, (SIZE, SIZE))
    live._shape, live._settings, live._find = truth.shape[0], FitSettings(), None  # type: ignore[assignment]
    return live


def frame(number: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), number, np.uint8)


def test_each_frame_follows_the_driver(tracker: LiveTracker, head: HeadModel, truth: HeadParams) -> None:
    found = HeadParams.cat([p for i in range(NUM_FRAMES) if (p := tracker.step(frame(i))) is not None])
    assert len(found) == NUM_FRAMES
    drawn, wanted = (
        project(head.landmarks(head.to_world(head(p), p)), p.camera, (SIZE, SIZE))[..., :2]
        for p in (found, truth)
    )
    # Pixels; smoothing lags by a part of the motion between frames.
    assert float((drawn - wanted).norm(dim=-1).mean(1).max()) < 1.5
    jaw = head.expression_names.index("jawOpen")
    assert float((found.expression[:, jaw] - truth.expression[:, jaw]).abs().max()) < 0.15
    assert bool((found.shape == truth.shape).all())


def test_nothing_of_the_future_is_used(tracker: LiveTracker, head: HeadModel) -> None:
    first = [tracker.step(frame(i)) for i in range(5)]
    tracker._state = tracker._bust = None
    again = [tracker.step(frame(i)) for i in (*range(5), 30)][:5]
    for one, other in zip(first, again, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one.pose, other.pose)


def test_lost_frames_are_none_and_the_way_back_is_found(tracker: LiveTracker, truth: HeadParams) -> None:
    assert tracker.step(frame(0)) is not None
    assert tracker.step(frame(255)) is None
    back = tracker.step(frame(20))
    assert back is not None
    turned = back.neck_pose + back.global_pose
    assert float((turned - truth.neck_pose[20]).abs().max()) < 0.05


def test_without_calibration_it_refuses(head: HeadModel) -> None:
    with pytest.raises(ValueError, match="must be calibrated"):
        LiveTracker(head, SIZE).step(frame(0))
