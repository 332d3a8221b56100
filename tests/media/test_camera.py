"""A camera is recorded as it delivers its frames, until its time is over or Ctrl-C."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from rome_lightning.media.camera import open_camera, parse_camera, record_camera, until_interrupted
from rome_lightning.media.video import read_video

FPS = 30.0
BLUE_BGR = (200, 40, 20)


class Device:
    """Stands for ``cv2.VideoCapture``: delivers a blue picture, brighter with every frame."""

    made: ClassVar[list[Device]] = []
    num_frames: int | None = None
    opens = True

    def __init__(self, camera: int | str) -> None:
        self.camera, self.count, self.is_released = camera, 0, False
        Device.made.append(self)

    def isOpened(self) -> bool:
        return Device.opens

    def set(self, name: int, value: float) -> None:
        assert name == cv2.CAP_PROP_BUFFERSIZE

    def get(self, name: int) -> float:
        return FPS if name == cv2.CAP_PROP_FPS else 0.0

    def read(self) -> tuple[bool, Any]:
        if self.count == Device.num_frames:
            return False, None
        time.sleep(1 / FPS)
        self.count += 1
        return True, np.full((32, 48, 3), BLUE_BGR, np.uint8) + np.uint8(self.count)

    def release(self) -> None:
        self.is_released = True


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    monkeypatch.setattr(Device, "made", [])


def test_names_of_cameras() -> None:
    assert [parse_camera(text) for text in ("camera:0", "camera:12", "/dev/video3")] == [0, 12, "/dev/video3"]
    assert [parse_camera(text) for text in ("talk.mp4", "/dev/null", "cameras")] == [None] * 3
    with pytest.raises(ValueError, match="camera:N with its number from 0, got camera:front"):
        parse_camera("camera:front")


def test_frames_keep_their_colours_and_times(tmp_path: Path) -> None:
    video = read_video(record_camera(0, tmp_path / "me.mp4", max_frames=6))
    assert video.frames.shape == (6, 32, 48, 3)
    assert np.abs(video.frames[0].mean((0, 1)) - (np.array(BLUE_BGR[::-1]) + 1)).max() < 6
    steps = np.diff(video.timestamps)
    # As they came, not at a rate that the device states: sleeping takes at least its time.
    assert (steps >= 1 / FPS - 2e-3).all()
    assert [device.is_released for device in Device.made] == [True]


def test_a_recording_ends_after_its_time(tmp_path: Path) -> None:
    video = read_video(record_camera(1, tmp_path / "me.mp4", seconds=0.2))
    assert 1 <= len(video.frames) <= 6
    assert max(video.timestamps) < 0.2
    assert Device.made[0].camera == 1


def test_a_recording_ends_with_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "num_frames", 4)
    assert len(read_video(record_camera(0, tmp_path / "me.mp4", seconds=60)).frames) == 4


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, although jobs in the background of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_recording_and_a_second_one_the_program(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    asked = 0
    with until_interrupted() as is_stopped:

        def after_three() -> bool:
            nonlocal asked
            asked += 1
            if asked == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return is_stopped()

        video = read_video(record_camera(0, tmp_path / "me.mp4", is_stopped=after_three))
        assert 3 <= len(video.frames) <= 4
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="cannot read camera /dev/video98765; is it connected"):
        open_camera("/dev/video98765")
    monkeypatch.setattr(Device, "opens", False)
    with pytest.raises(FileNotFoundError, match="cannot read camera 7; is it connected"):
        record_camera(7, tmp_path / "me.mp4")
    assert not list(tmp_path.iterdir())


def test_a_camera_without_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "num_frames", 0)
    with pytest.raises(ValueError, match="camera 0 gives no picture; close other programs"):
        record_camera(0, tmp_path / "me.mp4", seconds=1)
    assert not list(tmp_path.iterdir())
