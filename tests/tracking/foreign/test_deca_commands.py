"""DECA's encoder from the command line and in drivers, by a generated checkpoint and FLAME."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deca_files import GivenFaces, constant_weights, faces_at, write_deca, write_seeing
from flame_files import make_arrays
from foreign_tracks import deca_pixels, posed, similarity
from PIL import Image

from rome_lightning.avatar import driver
from rome_lightning.avatar.recorded import read_motion
from rome_lightning.cli.main import main
from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.head.flame.registration import add_mediapipe
from rome_lightning.media.video import write_video
from rome_lightning.tracking import tracker
from rome_lightning.tracking.crop import crop_clip
from rome_lightning.tracking.foreign import DecaEncoder

TFORM = similarity(0.6, 0, -40, -30)
PICTURE = np.full((480, 640, 3), 128, np.uint8)


@pytest.fixture
def pixels(head: HeadModel, codes: dict[str, np.ndarray]) -> np.ndarray:
    """The first person of ``codes`` in the picture, by DECA's own projection."""
    return deca_pixels(posed(head, codes)[0], codes["cam"][0], TFORM)


@pytest.fixture
def landmarks(head: HeadModel, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """MediaPipe's, which every tracker finds in three of four frames."""
    found = head.landmarks(torch.from_numpy(pixels).float()[None])
    faces = faces_at(found.repeat(4, 1, 1), torch.tensor([True, True, False, True]))
    monkeypatch.setattr(tracker, "FaceDetector", lambda: GivenFaces(faces))
    # The search for better landmarks takes 20 seconds.
    monkeypatch.setattr(tracker, "with_landmarks", add_mediapipe)
    return found


@pytest.fixture
def files(codes: dict[str, np.ndarray], landmarks: torch.Tensor, tmp_path: Path) -> Path:
    """A folder with FLAME, a checkpoint that sees the first person of ``codes``, a video and photographs."""
    (tmp_path / "generic_model.pkl").write_bytes(pickle.dumps(make_arrays(), protocol=2))
    write_seeing(tmp_path / "deca_model.tar", codes, TFORM, landmarks)
    write_video(tmp_path / "clip.mp4", [PICTURE] * 4, 25.0)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.fromarray(PICTURE).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def track(folder: Path, output: str) -> int:
    head, deca = str(folder / "generic_model.pkl"), str(folder / "deca_model.tar")
    given = ["avatar", "track", str(folder / "clip.mp4"), "--head", head, "--deca", deca]
    return main([*given, "-o", str(folder / output)])


def in_picture(head: HeadModel, driver: driver.Driver, landmarks: torch.Tensor) -> torch.Tensor:
    """The driver's vertices, with the encoder's identity, in pixels of the whole picture."""
    params, crop = driver.params, crop_clip(landmarks, PICTURE.shape[:2])
    seen = project(head.to_world(head(params), params), params.camera, (512, 512))
    return crop.to_frame(seen[..., :2], 512)


def test_a_video_becomes_the_encoders_motion(
    files: Path, head: HeadModel, codes: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert track(files, "motion.npz") == 0
    assert "motion.npz: 3 of 4 frames" in capsys.readouterr().out
    motion = read_motion(files / "motion.npz", head)
    assert motion.lost.tolist() == [False, False, True, False]
    assert motion.times_s.tolist() == pytest.approx([0.0, 0.04, 0.08, 0.12], abs=1e-3)
    for row in range(4):
        assert torch.allclose(motion.params.expression[row], torch.from_numpy(codes["exp"][0]))
        assert torch.allclose(motion.params.jaw_pose[row], torch.from_numpy(codes["pose"][0, 3:]))


def test_drivers_show_the_encoders_head(
    files: Path, head: HeadModel, pixels: np.ndarray, landmarks: torch.Tensor
) -> None:
    avatar = SimpleNamespace(image_size=(512, 512), model=SimpleNamespace(head=head))
    encoder = DecaEncoder.load(files / "deca_model.tar")
    for name, count in (("clip.mp4", 4), ("photos", 2), ("photos/a.png", 1)):
        found = driver.read_driver(files / name, avatar, encoder=encoder)  # type: ignore[arg-type]
        assert len(found) == count
        seen = in_picture(head, found, landmarks)
        assert float((seen - torch.from_numpy(pixels)).abs().max()) < 0.02, name


def test_commands_refuse_what_does_not_fit_before_they_track(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "track_video", lambda *_, **__: pytest.fail("tracked first"))
    assert track(files, "motion.csv") == 1
    assert "motion.csv has ARKit's expressions, which flame-" in capsys.readouterr().err
    weights = constant_weights({})
    del weights["layers.0.bias"]
    write_deca(files / "deca_model.tar", weights)
    assert track(files, "motion.npz") == 1
    assert "deca_model.tar is not DECA's deca_model.tar: E_flame.layers.0.bias" in capsys.readouterr().err
    assert not list(files.glob("motion.*"))


def test_the_open_head_has_no_deca(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["avatar", "track", str(files / "clip.mp4"), "--deca", str(files / "deca_model.tar")]
    assert main([*given, "-o", str(files / "motion.npz")]) == 1
    assert "parameters of DECA are FLAME's, the head is open-head-" in capsys.readouterr().err
