"""What drives an avatar, from whatever it comes: a video, photographs, or recorded motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor

from rome_lightning.avatar.avatar import Avatar
from rome_lightning.avatar.motion import LostFrames, fill_lost, relative_motion
from rome_lightning.avatar.recorded import DEFAULT_FPS, MOTION_SUFFIXES, RecordedMotion, read_motion
from rome_lightning.head import HeadModel
from rome_lightning.media.audio import copy_audio
from rome_lightning.media.pictures import PICTURE_SUFFIXES, read_image
from rome_lightning.media.video import Video, read_video, write_video
from rome_lightning.tracking import Tracker
from rome_lightning.tracking.detector import Progress
from rome_lightning.types import HeadParams

LARGEST_FRAME = 1280
"""Drivers' frames are reduced to this longer side, pixels: more helps nobody and fills the memory."""
NO_VIDEO = "the driver is no video"
"""What ``Driver.write`` returns where no sound was to be expected."""
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

    def shown(self, lost: LostFrames = "hold", own: HeadParams | None = None) -> tuple[HeadParams, Tensor]:
        """Poses to draw, lost frames replaced, and the number of each in ``params``.

        Args:
            lost: see ``fill_lost``.
            own: an avatar's pose; the motion then starts from it, relative to the first frame that is not
                lost.

        Raises:
            ValueError: every frame is lost.
        """
        params, numbers = fill_lost(self.params, self.lost, lost)
        if own is not None:
            first = (~self.lost).nonzero()[0]
            params = relative_motion(params, self.params[first], own)
        return params, numbers

    def write(
        self, output: Path, frames: Iterable[UInt8[np.ndarray, "h w c"]], numbers: Int[Tensor, " n"]
    ) -> str:
        """Write pictures as a video with the driver's sound, each shown when its driver's frame is.

        Args:
            output: see ``write_video``.
            frames: RGB or RGBA.
            numbers: of ``shown``.

        Returns:
            What was lost of the sound, see ``copy_audio``; ``NO_VIDEO`` where the driver is none.
        """
        times = self.times[numbers.numpy()]
        write_video(output, frames, self.fps, timestamps=times)
        if self.video is None or self.video.path is None:
            return NO_VIDEO
        offsets = [offset - float(times[0]) for offset in self.video.clock_offsets]
        return copy_audio(output, self.video.path, offsets)


def read_driver(
    path: Path,
    avatar: Avatar,
    max_frames: int | None = None,
    fps: float | None = None,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    max_fps: float | None = None,
) -> Driver:
    """Read what is to drive an avatar.

    Args:
        path: a video; a photograph; a folder of photographs, in the order of their names, each with a pose of
            its own; Live Link Face's CSV; or ``.npz`` with recorded parameters.
        avatar: to be driven; a CSV, which has no framing, takes that of its photograph.
        max_frames: stop after so many.
        fps: frames per second of a folder of photographs; 25 if not given.
        progress: called as ``progress(stage, done, total)``.
        max_seconds: leave out what a video or a recording shows later.
        max_fps: leave out frames of faster videos and recordings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no face is found in any frame, or the file cannot be read.
    """
    size = avatar.image_size[0]
    if path.suffix.lower() in MOTION_SUFFIXES:
        motion = read_motion(path, avatar.model.head)
        motion = _part(motion, max_frames, max_seconds, max_fps)
        params = motion.params
        if not motion.framed:
            camera = avatar.source.params.camera.expand(len(params), -1)
            params = dataclasses.replace(params, camera=camera)
        times = motion.times_s.double().numpy()
        reasons = tuple("no face" if lost else "" for lost in motion.lost.tolist())
        return Driver(params, motion.lost, times, motion.fps, None, None, reasons)
    if path.is_dir() or path.suffix.lower() in _STILLS:
        return _track_photographs(path, avatar.model.head, size, max_frames, fps or DEFAULT_FPS, progress)
    return track_video(path, avatar.model.head, size, max_frames, progress, max_seconds, max_fps)


def _part(
    motion: RecordedMotion, max_frames: int | None, max_seconds: float | None, max_fps: float | None
) -> RecordedMotion:
    """The beginning of a recording, at most so many frames per second; see ``read_driver``."""
    times = motion.times_s
    wanted = torch.ones_like(times, dtype=torch.bool)
    if max_seconds is not None:
        wanted &= times < max_seconds
    if max_fps is not None:
        # Of each interval the first frame, as of videos; times are rounded.
        intervals = ((times.double() + 2e-3) * max_fps).floor()
        wanted &= intervals.diff(prepend=intervals.new_tensor([-1.0])) > 0
    kept = wanted.nonzero().flatten()[:max_frames]
    return RecordedMotion(motion.params[kept], times[kept], motion.framed, motion.lost[kept])


def track_video(
    path: Path,
    head: HeadModel,
    image_size: int,
    max_frames: int | None = None,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    max_fps: float | None = None,
) -> Driver:
    """What the tracker finds in a video, smoothed over time; see ``read_driver``."""
    video = read_video(
        path, max_frames=max_frames, fps=max_fps, max_side=LARGEST_FRAME, max_seconds=max_seconds
    )
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
