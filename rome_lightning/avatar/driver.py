"""What drives an avatar, from whatever it comes: a video, photographs, or recorded motion."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from rome_lightning.avatar.avatar import Avatar
from rome_lightning.avatar.recorded import DEFAULT_FPS, MOTION_SUFFIXES, RecordedMotion, read_motion
from rome_lightning.head import HeadModel
from rome_lightning.media.pictures import PICTURE_SUFFIXES, read_image
from rome_lightning.media.video import Video, read_video
from rome_lightning.tracking import Tracker
from rome_lightning.tracking.detector import Progress
from rome_lightning.types import HeadParams

LARGEST_FRAME = 1280
"""Drivers' frames are reduced to this longer side, pixels: more helps nobody and fills the memory."""
_STILLS = tuple(suffix for suffix in PICTURE_SUFFIXES if suffix != ".gif")
"""Pictures that do not move."""


@dataclass(frozen=True)
class Driver:
    """Poses over time, and the frames that they were found in, if any."""

    params: HeadParams
    """One row per frame; those of lost frames mean nothing."""
    lost: Bool[Tensor, " n"]
    """Frames in which no face was found or trusted."""
    times: Float64[np.ndarray, " n"]
    """Seconds from the first frame."""
    fps: float
    """Mean frames per second."""
    images: Float[Tensor, "n 3 h w"] | None
    """Cropped frames, RGB in [0, 1]; recorded motion has none."""
    video: Video | None = None
    """Without its frames, for its sound."""
    reasons: tuple[str, ...] = ()
    """Why each frame is lost; empty for a frame that is not."""

    def __len__(self) -> int:
        return len(self.params)

    def motion(self) -> RecordedMotion:
        """The same as recorded motion."""
        times = torch.from_numpy(self.times - self.times[0]).float()
        return RecordedMotion(self.params, times, True, self.lost)


def read_driver(
    path: Path,
    avatar: Avatar,
    max_frames: int | None = None,
    fps: float | None = None,
    progress: Progress | None = None,
) -> Driver:
    """Read what is to drive an avatar.

    Args:
        path: a video; a photograph; a folder of photographs, in the order of their names, each with a pose of
            its own; Live Link Face's CSV; or ``.npz`` with recorded parameters.
        avatar: to be driven; a CSV, which has no framing, takes that of its photograph.
        max_frames: stop after so many.
        fps: frames per second of a folder of photographs; 25 if not given.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no face is found in any frame, or the file cannot be read.
    """
    size = avatar.image_size[0]
    if path.suffix.lower() in MOTION_SUFFIXES:
        motion = read_motion(path, avatar.model.head)
        params = motion.params
        if not motion.framed:
            camera = avatar.source.params.camera.expand(len(params), -1)
            params = dataclasses.replace(params, camera=camera)
        chosen = slice(0, max_frames)
        times = motion.times_s[chosen].double().numpy()
        reasons = tuple("no face" if lost else "" for lost in motion.lost[chosen].tolist())
        return Driver(params[chosen], motion.lost[chosen], times, motion.fps, None, None, reasons)
    if path.is_dir() or path.suffix.lower() in _STILLS:
        return _track_photographs(path, avatar.model.head, size, max_frames, fps or DEFAULT_FPS, progress)
    return track_video(path, avatar.model.head, size, max_frames, progress)


def track_video(
    path: Path,
    head: HeadModel,
    image_size: int,
    max_frames: int | None = None,
    progress: Progress | None = None,
) -> Driver:
    """What the tracker finds in a video, smoothed over time; see ``read_driver``."""
    video = read_video(path, max_frames=max_frames, max_side=LARGEST_FRAME)
    tracker = Tracker(head, image_size=image_size)
    tracked = tracker.track(video.frames, fps=video.fps, progress=progress, masks=False)
    silent = dataclasses.replace(video, frames=video.frames[:0])
    images = tracked.to_frames().image
    return Driver(
        tracked.params, ~tracked.valid, video.timestamps, video.fps, images, silent, tracked.reasons
    )


def _track_photographs(
    path: Path,
    head: HeadModel,
    image_size: int,
    max_frames: int | None,
    fps: float,
    progress: Progress | None,
) -> Driver:
    """Poses of single photographs, not smoothed."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)[
            :max_frames
        ]
    if not files:
        raise ValueError(f"{path} has no photographs ({', '.join(PICTURE_SUFFIXES[:4])}, ...)")
    tracker = Tracker(head, image_size=image_size)
    params, images, lost = [], [], []
    for number, file in enumerate(files):
        picture = read_image(file)
        try:
            tracked = tracker.track(picture[None], masks=False, face=0)
        except ValueError:
            # No face: a lost frame, unless it is the only one.
            if len(files) == 1:
                raise
            params.append(HeadParams.neutral(1, head.num_shape, head.num_expression))
            images.append(torch.ones(1, 3, image_size, image_size))
            lost.append(True)
        else:
            params.append(tracked.params)
            images.append(tracked.to_frames().image)
            lost.append(False)
        if progress is not None:
            progress("photographs", number + 1, len(files))
    times = np.arange(len(files)) / fps
    reasons = tuple("no face" if each else "" for each in lost)
    return Driver(HeadParams.cat(params), torch.tensor(lost), times, fps, torch.cat(images), None, reasons)
