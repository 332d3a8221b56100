"""Online tracking, frame by frame: no look-ahead, and a fixed identity."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.head import HeadModel
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, FaceDetector, open_task
from rome_lightning.tracking.fit import initial_state, landmark_problem, match_blendshapes
from rome_lightning.tracking.gauss_newton import (
    FrameState,
    LandmarkProblem,
    solve_frames,
)
from rome_lightning.tracking.to_params import to_params
from rome_lightning.tracking.tracker import Tracker
from rome_lightning.types import HeadParams

_FIRST_STEPS, _NEXT_STEPS = 5, 2
"""Gauss-Newton steps from scratch, and from the previous frame."""
_LEAST_SHARE = 0.4
"""Share of a new pose that is used if it differs from the last one only by noise."""


class LiveTracker:
    """Expression, pose and camera of single frames of one person; a context manager.

    ``calibrate`` finds the crop and the identity from some frames, once; ``step`` then starts each frame
    from the one before. A frame without a face gives ``None``, never a guess.

    Args:
        head: the model to fit.
        image_size: side of the crops in pixels.
        detector: finds faces; MediaPipe by default.
    """

    crop: Crop
    """Set by ``calibrate``."""

    def __init__(self, head: HeadModel, image_size: int = 256, detector: FaceDetector | None = None) -> None:
        self.tracker = Tracker(head, image_size, detector=detector)
        self.model = self.tracker.landmark_model
        self._stack = ExitStack()
        self._shape: Float[Tensor, " s"] | None = None
        self._state: FrameState | None = None
        self._bust: Float[Tensor, "1 3"] | None = None

    def __enter__(self) -> LiveTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def calibrate(self, frames: UInt8[np.ndarray, "n h w 3"], fps: float | None = None) -> HeadParams:
        """Find the person's position and head shape.

        Args:
            frames: the first frames, a second or less.
            fps: frames per second; 25 if not known.

        Returns:
            Parameters of those frames.

        Raises:
            ValueError: no frame shows a face, or most show several people.
        """
        tracked = self.tracker.track(frames, fps=fps, masks=False)
        self.crop = tracked.crop
        self._shape = tracked.params.shape[0]
        self._state, self._bust = None, None
        self._settings = dataclasses.replace(
            self.tracker.fit_settings, bust_sigma=self.tracker.fit_settings.bust_sigma * (fps or 25) / 25
        )
        detector = self.tracker.detector
        self._find = self._stack.enter_context(open_task(detector.create))
        return tracked.params

    def step(self, frame: UInt8[np.ndarray, "h w 3"]) -> HeadParams | None:
        """Parameters of the next frame (batch of one), or ``None`` if nobody is found in it."""
        if self._shape is None:
            raise ValueError("a live tracker must be calibrated with some frames before its first step")
        found = self.tracker.detector.detect_next(self._find, frame)
        if found is None:
            # After a lost frame the face may be anywhere.
            self._state = None
            return None
        points = torch.cat([found.landmarks, found.depth[..., None]], dim=-1)
        size = self.tracker.image_size
        landmarks = self.crop.to_crop(points, size).float()
        scores = match_blendshapes(found.blendshapes, BLENDSHAPE_NAMES, self.tracker.head.expression_names)
        problem = landmark_problem(self.tracker.head, self.model, landmarks, scores, self._settings)
        last = self._state
        start = initial_state(problem, landmarks) if last is None else last
        steps = _FIRST_STEPS if last is None else _NEXT_STEPS
        state = solve_frames(problem, self._shape, start, steps)
        self._state = state if last is None else self._steadied(problem, last, state)
        return to_params(
            self.tracker.head, self.model, self._shape, self._state, self._bust_of(self._state), (size, size)
        )

    def crop_of(self, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The part of a frame that the parameters refer to."""
        return self.crop.extract(frame, self.tracker.image_size)

    def _steadied(self, problem: LandmarkProblem, last: FrameState, state: FrameState) -> FrameState:
        """The new pose, pulled towards the last one where they differ only by noise."""
        assert self._shape is not None
        now, before = problem.predict(self._shape, FrameState.cat([state, last])).split(1)
        moved = now - before
        ratio = moved.norm(dim=-1).mean(1) / problem.unit / problem.settings.smooth_limit
        share = (ratio.square() / (1 + ratio.square())).clamp_min(_LEAST_SHARE)
        turn = matrix_to_axis_angle(state.rotation @ last.rotation.transpose(1, 2))
        return FrameState(
            rotation=axis_angle_to_matrix(turn * share[:, None]) @ last.rotation,
            log_scale=torch.lerp(last.log_scale, state.log_scale, share),
            shift=torch.lerp(last.shift, state.shift, share[:, None]),
            expression=state.expression,
            eyes=state.eyes,
        )

    def _bust_of(self, state: FrameState) -> Float[Tensor, "1 3 3"]:
        """Rotation of the shoulders: a share of the running mean of the head's rotation.

        ``shoulders.bust_rotation`` also averages over future frames, which a live tracker lacks.
        """
        rotation = matrix_to_axis_angle(state.rotation)
        if self._bust is None:
            self._bust = rotation
        self._bust = torch.lerp(self._bust, rotation, 1 / max(self._settings.bust_sigma, 1.0))
        return axis_angle_to_matrix(self._bust * torch.tensor(self._settings.bust_share))
