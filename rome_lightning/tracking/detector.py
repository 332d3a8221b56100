"""Faces in frames: MediaPipe's 478 landmarks, 52 blendshape scores and a head pose."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image
from torch import Tensor

from rome_lightning import assets
from rome_lightning.media.frame_reader import FrameSequence
from rome_lightning.tracking.turned import quarter_turns, stands_upside_down
from rome_lightning.types.struct import TensorStruct

NUM_LANDMARKS = 478
# fmt: off
BLENDSHAPE_NAMES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft",
    "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight",
    "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight",
    "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft", "mouthLowerDownLeft",
    "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)
# fmt: on
"""Order of ``Detections.blendshapes``; results are sorted into it by name."""

# The detector inside the landmarker sees the frame at 128 x 128: faces that are small in it need tiles.
_TILE_SHARES = (0.5, 0.25)
_MIN_TILE = 128
_DARK = 70.0
# Tiles are slow, so only this many frames of a clip are searched for a face that was not found at first,
# and for a second person where the first is smaller than this share of the longer side.
_THOROUGH_FRAMES = 8
_SMALL_SHARE = 0.25
_FACES_TO_CHOOSE = 10
# Faces as Python objects take several times the memory of their arrays: of long clips only so many are kept.
_STACKED = 256
# A second face counts when it is at least this large relative to the largest one.
_RIVAL_SHARE = 0.4

_PLACE = attrgetter("x", "y", "z")
Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""


@dataclass(frozen=True)
class Detections(TensorStruct):
    """The main face of each frame; all values are 0 where ``found`` is false."""

    landmarks: Float[Tensor, "n 478 2"]
    """Pixels (x, y) of the frame, pixel centres at integers; may lie outside the frame."""
    depth: Float[Tensor, "n 478"]
    """Pixels relative to the centre of the head, smaller is nearer."""
    blendshapes: Float[Tensor, "n 52"]
    """Scores in [0, 1] in the order of ``BLENDSHAPE_NAMES``."""
    pose: Float[Tensor, "n 4 4"]
    """MediaPipe's canonical face in a camera of 63 degrees vertical field of view: centimetres, x right,
    y up, looking along -z. The distance is only as accurate as that field of view."""
    found: Bool[Tensor, " n"]
    num_faces: Int32[Tensor, " n"]
    """Distinct faces of a comparable size, at most 3; where a face was found, at least as many as half of
    the thoroughly searched frames of the clip show."""

    def __len__(self) -> int:
        return self.landmarks.shape[0]

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """Bounds (left, top, right, bottom) of the landmarks, pixels."""
        return torch.cat([self.landmarks.amin(1), self.landmarks.amax(1)], dim=-1)


class FaceDetector:
    """MediaPipe's Face Landmarker on single frames.

    Landmarks are found in each frame on its own, without smoothing over time. A frame in which no face is
    found is searched again: around the face of the previous frame, brightened if it is dark, and, in some
    frames of a clip, in enlarged tiles for small faces.

    The detector also returns landmarks for covered faces and invents what it cannot see, so ``found`` does
    not measure quality.
    """

    def __init__(self, model: Path | None = None, num_faces: int = 3, min_confidence: float = 0.5) -> None:
        """Set up; nothing is loaded before the first frame.

        Args:
            model: ``face_landmarker.task``; by default the asset of that name.
            num_faces: number of faces to detect, so that frames with several people are noticed.
            min_confidence: of detection and of presence, [0, 1].
        """
        self.model = model
        self.num_faces = num_faces
        self.min_confidence = min_confidence

    def detect(
        self,
        frames: FrameSequence,
        progress: Progress | None = None,
        find: Callable[[np.ndarray], list[_Face]] | None = None,
        face: int = 0,
    ) -> Detections:
        """Find the main face of each frame.

        If there are several faces, the main one is the largest, or the one given by ``face``; in later frames
        it is the one nearest to the previous frame's main face, unless ``face`` is 0 and another is 1.5 times
        as large.

        Args:
            frames: read once, in order.
            progress: called after each frame.
            find: what ``open_task(detector.create)`` gives, where the caller keeps it open for many
                calls; by default the network is loaded for this call.
            face: number of the face in the first frame that shows any, from left to right, from 1; 0 takes
                the largest.

        Raises:
            ValueError: there are fewer faces than ``face``.
        """
        if face < 0:
            raise ValueError(f"face is a number from 1, or 0 for the largest, got {face}")
        found: list[Detections] = []
        results: list[_Face | None] = []
        counts: list[int] = []
        thorough = set(np.linspace(0, len(frames) - 1, min(_THOROUGH_FRAMES, len(frames))).astype(int))
        opened = nullcontext(find) if find is not None else open_task(lambda: self.create(face))
        with opened as find:
            previous: _Face | None = None
            for index, frame in enumerate(frames):
                faces = self._search(find, np.ascontiguousarray(frame), previous, index in thorough)
                chosen = _main_face(faces, previous, face)
                previous = chosen or previous
                results.append(chosen)
                counts.append(sum(face.height > _RIVAL_SHARE * faces[0].height for face in faces))
                if progress is not None:
                    progress("faces", index + 1, len(frames))
                if len(results) == _STACKED or index + 1 == len(frames):
                    found.append(_stack(results))
                    results = []
        # What most searched frames show holds for those between them, which were only glanced at.
        crowd = int(np.median([counts[index] for index in thorough]))
        numbers = torch.tensor([max(count, crowd) if count else 0 for count in counts], dtype=torch.int32)
        return replace(Detections.cat(found), num_faces=numbers)

    def detect_next(
        self, find: Callable[[np.ndarray], list[_Face]], frame: UInt8[np.ndarray, "h w 3"]
    ) -> Detections | None:
        """The largest face of one frame, at the cost of one network call; ``None`` if there is none.

        Args:
            find: what ``open_task(detector.create)`` gives.
            frame: RGB.
        """
        faces = _distinct(find(np.ascontiguousarray(frame)))
        return (
            replace(_stack([faces[0]]), num_faces=torch.tensor([len(faces)], dtype=torch.int32))
            if faces
            else None
        )

    def upside_down(self, frames: FrameSequence, detections: Detections) -> Bool[Tensor, " n"]:
        """Frames whose landmarks are an upright face read into one that stands on its head.

        Two frames of a clip are looked at, all of one of 8 or less, and all where one of these is so.

        Args:
            frames: RGB.
            detections: what ``detect`` gave.
        """
        found = detections.found.nonzero().flatten().tolist()
        result = torch.zeros(len(frames), dtype=torch.bool)
        if not found:
            return result
        few = found if len(found) <= _THOROUGH_FRAMES else found[len(found) // 4 :: len(found) // 2]
        with open_task(self.create) as find:

            def turned(index: int) -> bool:
                points = detections.landmarks[index].numpy()
                box = detections.boxes[index].numpy()
                centre, height = (box[:2] + box[2:]) / 2, float(np.linalg.norm(box[2:] - box[:2]))
                view, offset, scale = _tile(frames[index], centre, 2.0 * height)
                # The inverse of ``_Face.moved``.
                return stands_upside_down(find, view, (points - np.asarray(offset) + 0.5) / scale - 0.5)

            if any(turned(index) for index in few):
                result[found] = torch.tensor([turned(index) for index in found])
        return result

    def quarter_turns(self, photo: UInt8[np.ndarray, "h w 3"]) -> int:
        """Counter-clockwise quarter turns, 0 to 3, that set the face of a photo upright; 0 without a face."""
        with open_task(self.create) as find:
            return quarter_turns(find, photo)

    def create(self, face: int = 0) -> Callable[[np.ndarray], list[_Face]]:
        """The network itself, for ``open_task`` and ``detect_next``; looks for more faces if one is named."""
        mediapipe = load_mediapipe()
        model = self.model or assets.resolve("face_landmarker")
        vision = mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(model)),
            num_faces=max(self.num_faces, _FACES_TO_CHOOSE) if face else self.num_faces,
            min_face_detection_confidence=self.min_confidence,
            min_face_presence_confidence=self.min_confidence,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        return _Landmarker(vision.FaceLandmarker.create_from_options(options), mediapipe)

    def _search(
        self,
        find: Callable[[np.ndarray], list[_Face]],
        frame: np.ndarray,
        previous: _Face | None,
        thorough: bool,
    ) -> list[_Face]:
        """Faces, largest first, from the cheapest view that shows one; from all tiles if ``thorough``."""
        faces: list[_Face] = []
        for view, offset, scale in _views(frame, previous, thorough):
            faces = [face.moved(offset, scale) for face in find(view)]
            if faces:
                break
        if thorough and faces and max(face.height for face in faces) < _SMALL_SHARE * max(frame.shape[:2]):
            for view, offset, scale in _tiles(frame, _TILE_SHARES[0]):
                faces += [face.moved(offset, scale) for face in find(view)]
        return _distinct(faces)


@dataclass(frozen=True)
class _Face:
    landmarks: np.ndarray
    """(478, 3), pixels."""
    blendshapes: dict[str, float]
    pose: np.ndarray

    @property
    def box(self) -> np.ndarray:
        return np.concatenate([self.landmarks[:, :2].min(0), self.landmarks[:, :2].max(0)])

    @property
    def height(self) -> float:
        return float(np.linalg.norm(self.box[2:] - self.box[:2]))

    @property
    def centre(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2

    def moved(self, offset: tuple[float, float], scale: float) -> _Face:
        """From pixels of a view to pixels of the frame; edges scale, not centres."""
        points = self.landmarks.copy()
        points[:, :2] = (points[:, :2] + 0.5) * scale - 0.5 + np.asarray(offset)
        points[:, 2] *= scale
        return _Face(points, self.blendshapes, self.pose)


class _Landmarker:
    """A MediaPipe landmarker as a function from an RGB array to faces."""

    def __init__(self, task: Any, mediapipe: Any) -> None:
        self.task = task
        self.mediapipe = mediapipe

    def __call__(self, frame: np.ndarray) -> list[_Face]:
        image = self.mediapipe.Image(image_format=self.mediapipe.ImageFormat.SRGB, data=frame)
        result = self.task.detect(image)
        height, width = frame.shape[:2]
        faces = []
        for index, points in enumerate(result.face_landmarks):
            # Normalised coordinates count from the corner of the image; z has the scale of x.
            landmarks = np.array([*map(_PLACE, points)]) * (width, height, width) - (0.5, 0.5, 0)
            scores = {c.category_name: c.score for c in result.face_blendshapes[index]}
            faces.append(_Face(landmarks, scores, result.facial_transformation_matrixes[index]))
        return faces


def _views(
    frame: np.ndarray, previous: _Face | None, thorough: bool
) -> Iterator[tuple[np.ndarray, tuple[float, float], float]]:
    """(picture, its offset in the frame, frame pixels per pixel of it), cheapest first."""
    yield frame, (0.0, 0.0), 1.0
    if previous is not None:
        yield _tile(frame, previous.centre, 2.0 * previous.height)
    if frame.mean() < _DARK:
        yield _brightened(frame), (0.0, 0.0), 1.0
    if thorough:
        for share in _TILE_SHARES:
            yield from _tiles(frame, share)


def _tiles(frame: np.ndarray, share: float) -> Iterator[tuple[np.ndarray, tuple[float, float], float]]:
    """Half-overlapping squares whose side is ``share`` of the frame's longer side, brightened if dark."""
    height, width = frame.shape[:2]
    side = share * max(height, width)
    if side < _MIN_TILE:
        return
    for y in _tile_centres(height, side):
        for x in _tile_centres(width, side):
            view, offset, scale = _tile(frame, np.array([x, y]), side)
            yield (_brightened(view) if view.mean() < _DARK else view), offset, scale


def _tile_centres(length: int, side: float) -> np.ndarray:
    """Centres of half-overlapping tiles that cover ``length``."""
    if length <= side:
        return np.array([length / 2])
    return np.linspace(side / 2, length - side / 2, int(np.ceil(2 * (length - side) / side)) + 1)


def _tile(
    frame: np.ndarray, centre: np.ndarray, side: float
) -> tuple[np.ndarray, tuple[float, float], float]:
    """A square of the frame, resized to at least 256 pixels."""
    height, width = frame.shape[:2]
    left, top = (max(0, int(c - side / 2)) for c in centre)
    right, bottom = min(width, int(left + side) + 1), min(height, int(top + side) + 1)
    tile = frame[top:bottom, left:right]
    scale = max(1, -(-256 // max(tile.shape[:2])))
    if scale > 1:
        size = (tile.shape[1] * scale, tile.shape[0] * scale)
        tile = np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BICUBIC))
    return np.ascontiguousarray(tile), (float(left), float(top)), 1 / scale


def _brightened(frame: np.ndarray) -> np.ndarray:
    """Gamma that brings the mean to mid grey."""
    mean = max(float(frame.mean()) / 255, 0.01)
    table = (np.linspace(0, 1, 256) ** (np.log(0.45) / np.log(mean)) * 255).round().astype(np.uint8)
    return table[frame]


def _distinct(faces: list[_Face]) -> list[_Face]:
    """Largest first, without duplicate detections of a face."""
    kept: list[_Face] = []
    for face in sorted(faces, key=lambda face: -face.height):
        if all(_overlap(face.box, other.box) < 0.3 for other in kept):
            kept.append(face)
    return kept


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over the smaller of two boxes."""
    size = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    areas = [float(np.prod(box[2:] - box[:2])) for box in (first, second)]
    return float(np.prod(size.clip(0))) / max(min(areas), 1e-6)


def _main_face(faces: list[_Face], previous: _Face | None, number: int) -> _Face | None:
    if not faces:
        return None
    if previous is None:
        return _numbered(faces, number) if number else faces[0]
    nearest = min(faces, key=lambda face: float(np.linalg.norm(face.centre - previous.centre)))
    return faces[0] if not number and faces[0].height > 1.5 * nearest.height else nearest


def _numbered(faces: list[_Face], number: int) -> _Face:
    if number > len(faces):
        raise ValueError(f"face {number}, counted from the left, does not exist: {len(faces)} were found")
    return sorted(faces, key=lambda face: float(face.centre[0]))[number - 1]


def _stack(faces: Sequence[_Face | None]) -> Detections:
    """As arrays, without the number of faces."""
    landmarks = np.zeros((len(faces), NUM_LANDMARKS, 3), np.float32)
    blendshapes = np.zeros((len(faces), len(BLENDSHAPE_NAMES)), np.float32)
    pose = np.tile(np.eye(4, dtype=np.float32), (len(faces), 1, 1))
    for index, face in enumerate(faces):
        if face is None:
            pose[index] = 0
            continue
        landmarks[index] = face.landmarks
        blendshapes[index] = [face.blendshapes[name] for name in BLENDSHAPE_NAMES]
        pose[index] = face.pose
    return Detections(
        landmarks=torch.from_numpy(landmarks[..., :2].copy()),
        depth=torch.from_numpy(landmarks[..., 2].copy()),
        blendshapes=torch.from_numpy(blendshapes),
        pose=torch.from_numpy(pose),
        found=torch.tensor([face is not None for face in faces]),
        num_faces=torch.zeros(len(faces), dtype=torch.int32),
    )


def load_mediapipe() -> Any:
    """The ``mediapipe`` module, imported when first needed: it takes seconds."""
    import mediapipe

    return mediapipe


@contextmanager
def open_task(create: Callable[[], Any]) -> Iterator[Callable[[np.ndarray], Any]]:
    """A MediaPipe task that is closed at the end, with its start-up messages suppressed.

    MediaPipe writes to file descriptor 2 from C++ while a graph starts and on its first image, whatever
    the logging settings. Closing is explicit: tasks left to the garbage collector fail at exit.

    Args:
        create: builds an object with the task in ``task`` that is called with an image.
    """
    with _silent_stderr():
        wrapper = create()
    is_first = True

    def call(image: np.ndarray) -> Any:
        nonlocal is_first
        with _silent_stderr() if is_first else nullcontext():
            is_first = False
            return wrapper(image)

    try:
        yield call
    finally:
        wrapper.task.close()


_REDIRECTING = Lock()
"""Of two threads that redirect at once, the later to finish would restore the other's redirection."""


@contextmanager
def _silent_stderr() -> Iterator[None]:
    with _REDIRECTING:
        sys.stderr.flush()
        saved = os.dup(2)
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(sink)
