"""From frames to the tracking results that training and animation need."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from threading import Lock

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, UInt8
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.media.frame_reader import FrameSequence
from rome_lightning.tracking.carried_masks import CarryRule
from rome_lightning.tracking.crop import Crop, CropRule, crop_clip
from rome_lightning.tracking.detector import (
    BLENDSHAPE_NAMES,
    Detections,
    FaceDetector,
    Progress,
)
from rome_lightning.tracking.embedding import with_landmarks
from rome_lightning.tracking.fit import fit_clip, match_blendshapes, nearest_found
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.flow import ClipPictures
from rome_lightning.tracking.foreign.converting import MOST_RESIDUAL, check_flame, convert
from rome_lightning.tracking.foreign.deca import DecaEncoder
from rome_lightning.tracking.jaw import landmark_model
from rome_lightning.tracking.masks import MaskMaker
from rome_lightning.tracking.matting import Matter
from rome_lightning.tracking.problems import Problem
from rome_lightning.tracking.quality import (
    QualityRule,
    continuous_shot,
    covered_ratio,
    yaw_degrees,
)
from rome_lightning.tracking.segmenter import Segmenter
from rome_lightning.tracking.tracked import TrackedClip, TrackedMotion
from rome_lightning.types import HeadParams, Region

HAIR_SIZE = 256
"""Side of the picture in which the highest hair of a photo is searched, pixels."""
HEADROOM = 0.04
"""Space above the hair in the square of a photo, share of its side."""
LEAST_HAIR = 0.02
"""Share of a row's middle that must show the person for the row to show hair."""
_CONVERTED_AT_ONCE = 128
"""Frames whose vertices are in memory at the same time."""


@dataclass(frozen=True)
class _Located:
    """What detection alone says about a clip."""

    detections: Detections
    problems: Int16[Tensor, " n"]
    trusted: Bool[Tensor, " n"]
    """Frames that the crop is made for."""
    crop: Crop
    landmarks: Float[Tensor, "n 478 3"]
    """Pixels of the crop; 0 where no face was found."""


class Tracker:
    """Face detection, crop, regions, matte and head fit of one person's clip.

    Frames without a face or with an unreliable one are marked, never guessed.
    """

    def __init__(
        self,
        head: HeadModel,
        image_size: int = 256,
        crop_rule: CropRule | None = None,
        quality: QualityRule | None = None,
        fit_settings: FitSettings | None = None,
        detector: FaceDetector | None = None,
        segmenter: Segmenter | None = None,
        matter: Matter | None = None,
        encoder: DecaEncoder | None = None,
        carry_rule: CarryRule | None = None,
    ) -> None:
        """Set up; models are loaded when first used.

        Args:
            head: the model to fit.
            image_size: side of the crops in pixels.
            crop_rule: size and place of the square.
            quality: when a frame is rejected.
            fit_settings: weights of the fit, for 25 frames per second: at another rate the frames that it
                averages over are scaled, and below 20 the pose is not smoothed at all.
            detector: finds faces; MediaPipe by default.
            segmenter: labels regions; MediaPipe by default.
            matter: draws mattes; MODNet by default.
            encoder: its parameters, frame by frame, replace the fit; identity is the mean over the clip. For
                FLAME.
            carry_rule: when every second frame of a clip takes its masks from its neighbours; by default
                never.
        """
        if image_size < 32:
            raise ValueError(f"image_size must be at least 32, got {image_size}")
        # Refuse unsupported heads here and not after minutes of detection.
        if encoder is not None:
            check_flame(head, "DECA")
        self.landmark_model = landmark_model(with_landmarks(head))
        self.head = head
        self.image_size = image_size
        self.crop_rule = crop_rule or CropRule()
        self.quality = quality or QualityRule()
        self.fit_settings = fit_settings or FitSettings()
        self.detector = detector or FaceDetector()
        self.segmenter = segmenter or Segmenter()
        self.matter = matter or Matter()
        self.encoder = encoder
        self.carry_rule = carry_rule

    def track(
        self,
        frames: UInt8[np.ndarray, "n h w 3"],
        fps: float | None = None,
        progress: Progress | None = None,
        masks: bool = True,
        face: int | None = None,
        detections: Detections | None = None,
    ) -> TrackedClip:
        """Track one person.

        Args:
            frames: RGB, consecutive; one frame for a photo.
            fps: frames per second, tells a jump from fast motion; 25 if not known.
            progress: called as ``progress(stage, done, total)``, from several threads.
            masks: whether to find regions and mattes. A driver needs neither and is tracked several times as
                fast without; ``regions`` and ``matte`` are then 0, and covered faces go unnoticed.
            face: which person of several: the number from left to right, from 1, in the first frame that
                shows any, or 0 for the largest. None marks frames with several people of similar size.
            detections: the detector's results for these frames, if the caller has them.

        Raises:
            ValueError: no frame shows a face; most show several people and ``face`` is None; or there are
                fewer people than ``face``.
        """
        frames = _checked(frames)
        fps = fps or 25.0
        # Segmenting the frames of a clip twice would take too long.
        is_photo = masks and len(frames) == 1
        located = self._locate(frames, fps, progress, face, detections, is_photo)
        problems, landmarks, crop = located.problems, located.landmarks, located.crop
        images = np.stack([crop.extract(frame, self.image_size) for frame in frames])
        inside = crop.inside(self.image_size)
        labels = torch.zeros(images.shape[:3], dtype=torch.uint8).masked_fill(~inside, int(Region.OUTSIDE))
        matte = torch.zeros(images.shape[:3], dtype=torch.float16)
        covered, person = torch.full((len(frames),), torch.nan), None
        if masks:
            # The networks of the masks cost most of the time: only frames that may be used get them.
            drawn = located.trusted & located.detections.found
            maker = MaskMaker(self.segmenter, self.matter, self.carry_rule)
            made, opacity = maker.make(images[drawn.numpy()], progress)
            labels[drawn] = made.masked_fill(~inside, int(Region.OUTSIDE))
            matte[drawn] = opacity * inside
            covered[drawn] = covered_ratio(landmarks[drawn, :, :2], labels[drawn], inside)
            problems |= Problem.COVERED * (covered > self.quality.max_covered)
            # Outside the video is unknown to the fit, not background.
            person = torch.where(inside, matte, 1.0)
        params, residual, problems = self._params(frames, located, problems, person, fps, progress)
        return TrackedClip(
            images=torch.from_numpy(images),
            params=params,
            landmarks=landmarks[..., :2].contiguous(),
            regions=labels,
            matte=matte,
            residual=residual,
            covered=covered,
            problems=problems,
            crop=crop,
        )

    def track_motion(
        self,
        frames: FrameSequence,
        fps: float | None = None,
        progress: Progress | None = None,
        face: int | None = None,
    ) -> TrackedMotion:
        """What ``track`` without masks finds, frame by frame: no frame is kept, whatever the length.

        What is kept of a frame are its landmarks and parameters, some ten thousand numbers.

        Args:
            frames: as for ``track``, or a ``FrameReader``, which is read several times.
            fps: as for ``track``.
            progress: as for ``track``.
            face: as for ``track``.

        Raises:
            ValueError: as for ``track``.
        """
        if isinstance(frames, np.ndarray):
            frames = _checked(frames)
        fps = fps or 25.0
        located = self._locate(frames, fps, progress, face, None)
        params, _, problems = self._params(frames, located, located.problems, None, fps, progress)
        return TrackedMotion(params, problems, located.crop)

    def _locate(
        self,
        frames: FrameSequence,
        fps: float,
        progress: Progress | None,
        face: int | None,
        detections: Detections | None,
        is_photo: bool = False,
    ) -> _Located:
        detections = detections or _detected(self.detector, frames, progress, face)
        problems = self._look(frames, detections, fps, face)
        usable = problems == 0
        trusted = usable if bool(usable.any()) else detections.found
        height, width = frames[0].shape[:2]
        crop = crop_clip(detections.landmarks[trusted], (int(height), int(width)), self.crop_rule)
        if is_photo:
            crop = self.with_whole_hair(frames[0], crop)
        points = torch.cat([detections.landmarks, detections.depth[..., None]], dim=-1)
        landmarks = crop.to_crop(points, self.image_size)
        landmarks[~detections.found] = 0
        problems |= Problem.OUTSIDE * (detections.found & self._outside(landmarks))
        return _Located(detections, problems, trusted, crop, landmarks)

    def with_whole_hair(self, photo: UInt8[np.ndarray, "h w 3"], crop: Crop) -> Crop:
        """The square of a photo, higher if it would cut the hair.

        Args:
            photo: RGB.
            crop: of ``crop_clip`` with the ``crop_rule``.
        """
        highest = crop.reaching(0, self.crop_rule) if crop.top > 0 else crop
        if highest.top == crop.top:
            return crop
        size = HAIR_SIZE
        person = self.segmenter.segment(highest.extract(photo, size)[None]).person[0] > 0.5
        # Not someone else's hair, nor a raised hand.
        middle = person[:, size // 4 : -(size // 4)]
        rows = (middle.float().mean(1) > LEAST_HAIR).nonzero()
        hair = highest.top + int(rows[0]) * highest.side / size if len(rows) else crop.top + crop.side
        top = max(highest.top, round(hair - HEADROOM * highest.side))
        return crop.reaching(top, self.crop_rule) if top < crop.top else crop

    def _look(
        self,
        frames: FrameSequence,
        detections: Detections,
        fps: float,
        face: int | None = None,
    ) -> Int16[Tensor, " n"]:
        """Problems visible in the detections; raises if the whole clip is unusable."""
        found = detections.found
        if not bool(found.any()):
            raise ValueError(
                f"no face found in {_amount(len(frames))}; the face must be frontal, well lit, and at "
                "least a tenth of the picture's height"
            )
        crowd = found & (detections.num_faces > 1) & (face is None)
        share = float(crowd.sum() / found.sum())
        if share > self.quality.max_crowd_ratio:
            most = int(detections.num_faces.max())
            raise ValueError(
                f"{most} people of similar size in {share:.0%} of {_amount(len(frames))}; "
                "choose one with face=N, counted from the left, or crop the picture"
            )
        boxes = detections.boxes
        height = boxes[:, 3] - boxes[:, 1]
        problems = torch.zeros(len(frames), dtype=torch.int16)
        problems |= Problem.NO_FACE * ~found
        problems |= Problem.UPSIDE_DOWN * self.detector.upside_down(frames, detections)
        problems |= Problem.SEVERAL_FACES * crowd
        problems |= Problem.SMALL * (found & (height < self.quality.min_face_px))
        problems |= Problem.PROFILE * (found & (yaw_degrees(detections.pose) > self.quality.max_yaw))
        shot = continuous_shot(frames, boxes, found & ~crowd, fps)
        problems |= Problem.OTHER_SHOT * (found & ~crowd & ~shot)
        return problems

    def _outside(self, landmarks: Float[Tensor, "n 478 3"]) -> Bool[Tensor, " n"]:
        xy = landmarks[..., :2]
        return ((xy < -0.5) | (xy > self.image_size - 0.5)).any(-1).float().mean(1) > 0.02

    def _params(
        self,
        frames: FrameSequence,
        located: _Located,
        problems: Int16[Tensor, " n"],
        person: Float[Tensor, "n s s"] | None,
        fps: float,
        progress: Progress | None,
    ) -> tuple[HeadParams, Float[Tensor, " n"], Int16[Tensor, " n"]]:
        """Parameters, residual and problems by the encoder or the fit."""
        if self.encoder is not None:
            return self._encoded(self.encoder, frames, located, problems)
        settings = _settings_at(self.fit_settings, fps)
        pictures = ClipPictures(frames, located.crop)
        landmarks, detections = located.landmarks, located.detections
        return self._fit(landmarks, person, detections, problems, settings, pictures, progress)

    def _encoded(
        self,
        encoder: DecaEncoder,
        frames: FrameSequence,
        located: _Located,
        problems: Int16[Tensor, " n"],
    ) -> tuple[HeadParams, Float[Tensor, " n"], Int16[Tensor, " n"]]:
        """One frame at a time, as the release does; those that the landmarks contradict are marked."""
        found = located.detections.found
        track = encoder.track(frames, located.detections.landmarks, found)
        good = problems == 0
        shape = track.shape[good if bool(good.any()) else found].mean(0)
        points, size = located.landmarks[..., :2], self.image_size
        parts = [
            convert(self.head, track[rows], located.crop, points[rows], size, shape)
            for rows in torch.arange(len(found)).split(_CONVERTED_AT_ONCE)
        ]
        residual = torch.cat([part.residual for part in parts])
        poor = found & ~(residual <= MOST_RESIDUAL)
        problems = problems | (Problem.POOR_FIT * poor).to(problems.dtype)
        shown = found.nonzero().flatten()[nearest_found(found)]
        params = HeadParams.cat([part.params for part in parts])[shown]
        return params, residual.where(found, torch.nan), problems

    def _fit(
        self,
        landmarks: Float[Tensor, "n 478 3"],
        person: Float[Tensor, "n s s"] | None,
        detections: Detections,
        problems: Int16[Tensor, " n"],
        settings: FitSettings,
        pictures: ClipPictures,
        progress: Progress | None,
    ) -> tuple[HeadParams, Float[Tensor, " n"], Int16[Tensor, " n"]]:
        """Fit the frames without a problem, or all frames with a face if there are none."""
        scores = match_blendshapes(detections.blendshapes, BLENDSHAPE_NAMES, self.head.expression_names)
        size = (self.image_size, self.image_size)

        def fitted(trusted: Bool[Tensor, " n"]) -> tuple[HeadParams, Float[Tensor, " n"]]:
            fit = fit_clip(
                self.head,
                landmarks,
                size,
                scores,
                trusted,
                settings,
                person,
                self.landmark_model,
                pictures,
                progress,
            )
            return fit.params, fit.residual

        good = problems == 0
        params, residual = fitted(good if bool(good.any()) else detections.found)
        usual = residual[~residual.isnan()].median()
        limit = max(self.quality.max_residual, self.quality.max_residual_ratio * float(usual))
        limit = min(limit, self.quality.lost_residual)
        poor = residual > limit
        problems = problems | (Problem.POOR_FIT * poor).to(problems.dtype)
        if bool(poor.any()) and bool((good & ~poor).any()):
            # The identity must not rest on frames that do not show it.
            params, second = fitted(good & ~poor)
            residual = torch.where(second.isnan(), residual, second)
        return params, residual, problems


def _settings_at(settings: FitSettings, fps: float) -> FitSettings:
    """Settings for another frame rate: five frames of a slow clip span a turn of the head."""
    smooth = settings.smooth_pose and fps >= 20
    return replace(
        settings,
        smooth_pose=smooth,
        bust_sigma=settings.bust_sigma * fps / 25,
        shoulder_sigma=settings.shoulder_sigma * fps / 25,
        torso_sigma=settings.torso_sigma * fps / 25,
    )


def _checked(frames: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(
            f"frames must be uint8 RGB of shape (frames, height, width, 3), at least one, "
            f"got {frames.dtype} {frames.shape}; read them with read_video or read_image"
        )
    return frames


def _detected(
    detector: FaceDetector,
    frames: FrameSequence,
    progress: Progress | None,
    face: int | None,
) -> Detections:
    """Detect in two threads if that pays off: the detector releases the interpreter while it computes.

    Long clips are halved even with one thread, so that results do not depend on the machine. A person named
    by number is followed from the first frame on.
    """
    if len(frames) < 64 or face:
        return detector.detect(frames, progress, face=face or 0)
    half = len(frames) // 2
    followed = None if progress is None else _together(progress, len(frames))
    with ThreadPoolExecutor(min(2, torch.get_num_threads())) as pool:
        parts = list(pool.map(lambda part: detector.detect(part, followed), (frames[:half], frames[half:])))
    return Detections.cat(parts)


def _together(progress: Progress, total: int) -> Progress:
    """One count of the frames of several threads."""
    lock, counter = Lock(), count(1)

    def step(stage: str, _done: int, _total: int) -> None:
        with lock:
            progress(stage, next(counter), total)

    return step


def _amount(number: int) -> str:
    return "the photo" if number == 1 else f"{number} frames"
