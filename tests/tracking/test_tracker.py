"""The whole tracker: on a moving photograph, and with synthetic detections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rome_lightning.geometry import axis_angle_to_matrix, project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.frame_reader import FrameReader
from rome_lightning.media.video import read_video, write_video
from rome_lightning.report.overlay import contact_sheet, draw_mesh
from rome_lightning.tracking import FaceDetector, Matter, Problem, Segmenter, TrackedClip, Tracker
from rome_lightning.tracking.crop import CropRule
from rome_lightning.tracking.tracker import _checked
from rome_lightning.types import Region

SIZE = 192


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


@pytest.fixture(scope="module")
def tracker(head: HeadModel, face_model: Path, region_model: Path, matte_model: Path) -> Tracker:
    return Tracker(
        head,
        image_size=SIZE,
        detector=FaceDetector(face_model),
        segmenter=Segmenter(region_model),
        matter=Matter(matte_model),
    )


def moved(photo: np.ndarray, angle: float, shift: tuple[float, float]) -> np.ndarray:
    """The photograph rotated counter-clockwise about its centre, degrees, and shifted, pixels."""
    return np.asarray(Image.fromarray(photo).rotate(angle, Image.Resampling.BICUBIC, translate=shift))


@pytest.fixture(scope="module")
def frames(astronaut: np.ndarray) -> np.ndarray:
    """Five views of the photograph, a black frame, and one with a board in front of the face."""
    photo = astronaut[:400, 20:420]
    views = [moved(photo, angle, (2 * angle, 0)) for angle in (-10, -5, 0, 5, 10)]
    hidden = photo.copy()
    hidden[118:170, 150:270] = (40, 90, 60)
    return np.stack([*views, np.zeros_like(photo), hidden])


@pytest.fixture(scope="module")
def clip(tracker: Tracker, frames: np.ndarray) -> TrackedClip:
    return tracker.track(frames, fps=10.0)


def test_shapes_and_ranges(clip: TrackedClip) -> None:
    assert clip.images.shape == (7, SIZE, SIZE, 3)
    assert clip.landmarks.shape == (7, 478, 2)
    assert clip.regions.shape == clip.matte.shape == (7, SIZE, SIZE)
    assert clip.images.dtype == clip.regions.dtype == torch.uint8
    assert clip.problems.dtype == torch.int16
    assert int(clip.regions.max()) <= max(Region)
    assert 0 <= float(clip.matte.min()) <= float(clip.matte.max()) <= 1
    assert len(clip.params) == len(clip) == 7
    assert torch.equal(clip.params.shape[0], clip.params.shape[6])
    assert len(clip[2:4]) == len(clip[2:4].reasons) == 2


def test_bad_frames_are_marked_with_a_reason(clip: TrackedClip) -> None:
    assert clip.reasons[:6] == ("", "", "", "", "", "no face")
    assert clip.reasons[6] in {"face covered", "no face", "head does not fit"}
    assert clip.valid.tolist() == [True] * 5 + [False] * 2
    assert float(clip.confidence[:5].min()) > 0.6
    assert float(clip.confidence[5]) == 0
    assert float(clip.landmarks[5].abs().max()) == 0


def test_the_fit_explains_the_landmarks(clip: TrackedClip, head: HeadModel) -> None:
    good = clip[:5]
    assert float(good.residual.max()) < 0.04
    with torch.no_grad():
        points = head.landmarks(head.to_world(head(good.params), good.params))
        drawn = project(points, good.params.camera, (SIZE, SIZE))[..., :2]
    iris = (good.landmarks[:, 468] - good.landmarks[:, 473]).norm(dim=-1)
    error = (drawn - good.landmarks)[:, :468].norm(dim=-1).mean(1) / iris
    # Another way to the same number: the head drawn through the public camera.
    assert torch.allclose(error, good.residual, atol=0.01)


def test_a_turn_of_the_picture_is_a_turn_of_the_head(clip: TrackedClip) -> None:
    """The roll of the fit follows the known rotation of the photograph."""
    pose = clip.params.global_pose
    neck = axis_angle_to_matrix(pose) @ axis_angle_to_matrix(clip.params.neck_pose)
    roll = torch.rad2deg(torch.atan2(neck[:5, 1, 0], neck[:5, 0, 0]))
    assert torch.allclose(roll - roll[2], torch.tensor([-10.0, -5, 0, 5, 10]), atol=1.5)


def test_masks_agree_with_the_landmarks(clip: TrackedClip) -> None:
    for index in range(5):
        x, y = clip.landmarks[index, 1].round().int().tolist()
        assert clip.regions[index, y, x] == Region.FACE_SKIN
        assert float(clip.matte[index, y, x]) == 1
    inside = clip.crop.inside(SIZE)
    assert float(clip.matte[:, ~inside].sum()) == 0
    assert (clip.regions[:, ~inside] == Region.OUTSIDE).all()
    assert not (clip.regions[:, inside] == Region.OUTSIDE).any()


def test_frames_for_the_models(clip: TrackedClip) -> None:
    made = clip.to_frames()
    assert len(made) == 7
    assert made.image.shape == (7, 3, SIZE, SIZE)
    assert torch.equal((made.image[2] * 255).round().byte().permute(1, 2, 0), clip.images[2])
    assert made.foreground_mask.shape == (7, 1, SIZE, SIZE)
    assert made.foreground_mask.dtype == torch.float32
    assert float(made.region_mask(Region.FACE_SKIN).sum()) > 0


def test_a_driver_needs_no_masks(tracker: Tracker, clip: TrackedClip, frames: np.ndarray) -> None:
    driver = tracker.track(frames[:6], fps=10.0, masks=False)
    assert float(driver.matte.max()) == int(driver.regions.max()) == 0
    assert driver.reasons == clip.reasons[:6]
    assert float(driver.confidence[:5].min()) > 0.6
    # The matte moves the skull, not the face.
    assert torch.allclose(driver.params.expression[2], clip.params.expression[2], atol=0.1)


def test_motion_of_a_file_is_that_of_its_frames(tracker: Tracker, frames: np.ndarray, tmp_path: Path) -> None:
    # Enough to be split between two threads; the black frames are lost.
    path = write_video(tmp_path / "long.mp4", frames[[0, 1, 2, 3, 4, 3, 2, 5, 1, 2] * 7], 25.0)
    whole = read_video(path)
    stages: list[tuple[str, int, int]] = []
    expected = tracker.track(whole.frames, fps=25.0, masks=False)
    motion = tracker.track_motion(FrameReader(path), 25.0, lambda *stage: stages.append(stage))
    for name, value in vars(expected.params).items():
        assert torch.equal(getattr(motion.params, name), value), name
    assert torch.equal(motion.problems, expected.problems)
    assert motion.reasons == expected.reasons
    assert motion.reasons.count("no face") == 7
    assert motion.crop == expected.crop
    assert stages[:70] == [("faces", number, 70) for number in range(1, 71)]
    # The lost frames have no pose to refine.
    assert stages[70:] == [(stage, done, 63) for stage in ("poses", "torso") for done in (16, 32, 48, 63)]


def test_a_photo_is_a_clip_of_one_frame(tracker: Tracker, astronaut: np.ndarray) -> None:
    stages: dict[str, tuple[int, int]] = {}
    photo = tracker.track(
        astronaut[None], progress=lambda stage, done, total: stages.update({stage: (done, total)})
    )
    assert photo.reasons == ("",)
    assert stages == {"faces": (1, 1), "regions": (1, 1), "matte": (1, 1)}


def test_the_hair_of_a_photo_is_not_cut(tracker: Tracker, astronaut: np.ndarray, head: HeadModel) -> None:
    tight = CropRule(zoom=1.66, max_zoom=2.6)
    parts = (tracker.detector, tracker.segmenter, tracker.matter)
    close = Tracker(head, SIZE, tight, None, None, *parts)
    photo, twice = close.track(astronaut[None]), close.track(np.stack([astronaut] * 2), fps=25)
    assert float(twice.matte[0, 0].max()) > 0.9
    assert float(photo.matte[0, 0].max()) < 0.1
    # Nothing is lost below, and no more is added than the hair needs.
    bottoms = [clip.crop.top + clip.crop.side for clip in (photo, twice)]
    assert bottoms[0] == bottoms[1]
    assert float(photo.matte[0, SIZE // 8].max()) > 0.9
    assert close.with_whole_hair(astronaut, twice.crop) == photo.crop


def test_no_face_is_an_answer(tracker: Tracker) -> None:
    grey = np.full((3, 200, 200, 3), 128, np.uint8)
    with pytest.raises(ValueError, match="no face found in 3 frames"):
        tracker.track(grey)
    with pytest.raises(ValueError, match="no face found in the photo"):
        tracker.track(grey[:1])


def test_two_people_are_an_answer(tracker: Tracker, astronaut: np.ndarray) -> None:
    face = astronaut[20:240, 120:340]
    pair = np.concatenate([face, face], axis=1)[None]
    with pytest.raises(ValueError, match=r"2 people of similar size in 100% of the photo; choose one"):
        tracker.track(pair)
    assert tracker.track(pair, face=2).crop.left > face.shape[1] / 2


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((0, 64, 64, 3), np.uint8),
    ],
)
def test_frames_are_checked(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frames must be uint8 RGB"):
        _checked(frames)


def test_sizes_are_checked(head: HeadModel) -> None:
    with pytest.raises(ValueError, match="image_size must be at least 32, got 16"):
        Tracker(head, image_size=16)


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        (Problem.SMALL, {"landmarks": 0.3}),
        (Problem.PROFILE, {"pose": 75.0}),
        (Problem.SEVERAL_FACES, {"num_faces": 2}),
        (Problem.NO_FACE, {"found": False}),
        (Problem.OTHER_SHOT, {"shift": 150.0}),
    ],
)
def test_every_early_problem_is_reported(
    tracker: Tracker, frames: np.ndarray, problem: Problem, change: dict[str, float]
) -> None:
    """Spoil frame 2 of five in one respect; the others are unchanged."""
    good = tracker.detector.detect(frames[:5])
    if "landmarks" in change:
        centre = good.landmarks[2].mean(0)
        good.landmarks[2] = centre + change["landmarks"] * (good.landmarks[2] - centre)
    elif "pose" in change:
        angle = torch.tensor([[0.0, float(np.radians(change["pose"])), 0.0]])
        good.pose[2, :3, :3] = axis_angle_to_matrix(angle)[0]
    elif "shift" in change:
        good.landmarks[2, :, 0] += change["shift"]
    else:
        name, value = next(iter(change.items()))
        getattr(good, name)[2] = value
    problems = tracker._look(frames[:5], good, fps=25.0).tolist()
    assert problems[2] & problem
    assert problems[:2] + problems[3:] == [0] * 4


def test_overlay_draws_the_head_on_the_face(clip: TrackedClip, head: HeadModel) -> None:
    image = clip.images[2].numpy()
    drawn = draw_mesh(image, head, clip.params[2:3], opacity=1.0)
    changed = torch.from_numpy((drawn != image).any(-1))
    face = clip.regions[2] == Region.FACE_SKIN
    # The bald head covers the face, and little beside the person.
    assert float((changed & face).sum() / face.sum()) > 0.95
    assert float((changed & (clip.matte[2] < 0.1)).sum() / changed.sum()) < 0.1
    lifted = replace(clip.params[2:3], camera=clip.params.camera[2:3] + torch.tensor([[0, 0, 0.5]]))
    assert not np.array_equal(draw_mesh(image, head, lifted, opacity=1.0), drawn)


def test_contact_sheet(clip: TrackedClip, head: HeadModel) -> None:
    sheet = contact_sheet(clip, head, num_frames=3)
    assert sheet.shape == (3 * SIZE, 4 * SIZE, 3)
    # The last frame has a problem: red border.
    assert sheet[-1, 300].tolist() == [255, 0, 0]
    assert sheet[SIZE - 1, 300].tolist() != [255, 0, 0]
