"""Drivers of an avatar from any source: a video, photographs, or recorded motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, UInt8
from torch import Tensor

from rome_lightning.avatar.avatar import Avatar
from rome_lightning.avatar.motion import LostFrames, fill_lost, relative_motion
from rome_lightning.avatar.recorded import DEFAULT_FPS, MOTION_SUFFIXES, RecordedMotion, read_motion
from rome_lightning.head import HeadModel
from rome_lightning.media.audio import copy_audio
from rome_lightning.media.frame_reader import FrameReader, Selection
from rome_lightning.media.pictures import PICTURE_SUFFIXES, read_image
from rome_lightning.media.video import write_video
from rome_lightning.tracking import Tracker
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.detector import Progress
from rome_lightning.tracking.foreign import DecaEncoder
from rome_lightning.types import HeadParams

LARGEST_FRAME = 1280
"""Drivers' frames are reduced to this longer side, pixels: more helps nobody and takes time."""
NO_VIDEO = "the driver is no video"
"""What ``Driver.write`` returns where no sound was to be expected."""
_STILLS = tuple(suffix for suffix in PICTURE_SUFFIXES if suffix != ".gif")
"""Pictures that do not move."""

Crops = Callable[[Int[Tensor, " n"], int], Iterator[UInt8[np.ndarray, "s s 3"]]]
"""Gives cropped frames, RGB, by their numbers, which rise, at a size in pixels; read anew at every call."""


@dataclass(frozen=True)
class Driver:
    """Poses over time, and where the frames that they were found in are read, if there are any."""

    params: HeadParams
    """One row per frame; those of lost frames mean nothing."""
    lost: Bool[Tensor, " n"]
    """Frames in which no face was found or trusted."""
    times: Float64[np.ndarray, " n"]
    """Seconds from the first frame."""
    fps: float
    """Mean frames per second."""
    crops: Crops | None
    """Recorded motion has none."""
    video: FrameReader | None = None
    """The file, for its sound."""
    reasons: tuple[str, ...] = ()
    """Why each frame is lost; empty for a frame that is not."""
    framed: bool = True
    """Whether ``params`` have a framing of their own; that of the avatar's photograph otherwise."""

    def __len__(self) -> int:
        return len(self.params)

    def framed_for(self, avatar: Avatar) -> Driver:
        """The same for an avatar: a driver without framing takes that of its photograph."""
        if self.framed:
            return self
        camera = avatar.source.params.camera.expand(len(self), -1)
        return dataclasses.replace(self, params=dataclasses.replace(self.params, camera=camera))

    def motion(self) -> RecordedMotion:
        """The same as recorded motion."""
        times = torch.from_numpy(self.times - self.times[0]).float()
        return RecordedMotion(self.params, times, True, self.lost)

    def shown(self, lost: LostFrames = "hold", own: HeadParams | None = None) -> tuple[HeadParams, Tensor]:
        """Poses to render, with lost frames replaced, and the index of each in ``params``.

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
        if self.video is None:
            return NO_VIDEO
        offsets = [offset - float(times[0]) for offset in self.video.timing.clock_offsets]
        return copy_audio(output, self.video.path, offsets)


def read_driver(
    path: Path,
    avatar: Avatar,
    max_frames: int | None = None,
    fps: float | None = None,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    max_fps: float | None = None,
    encoder: DecaEncoder | None = None,
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
        encoder: see ``Tracker``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no face is found in any frame, the file cannot be read, or there is an encoder and the
            avatar's head is not FLAME or the file is recorded motion.
    """
    size = avatar.image_size[0]
    if path.suffix.lower() in MOTION_SUFFIXES:
        if encoder is not None:
            raise ValueError(f"{path} is recorded motion, which has no pictures for an encoder; omit --deca")
        motion = read_motion(path, avatar.model.head)
        motion = _part(motion, max_frames, max_seconds, max_fps)
        times = motion.times_s.double().numpy()
        reasons = tuple("no face" if lost else "" for lost in motion.lost.tolist())
        found = Driver(motion.params, motion.lost, times, motion.fps, None, None, reasons, motion.framed)
        return found.framed_for(avatar)
    if path.is_dir() or path.suffix.lower() in _STILLS:
        return _track_photographs(
            path, avatar.model.head, size, max_frames, fps or DEFAULT_FPS, progress, encoder
        )
    return track_video(path, avatar.model.head, size, max_frames, progress, max_seconds, max_fps, encoder)


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
    encoder: DecaEncoder | None = None,
) -> Driver:
    """What the tracker finds in a video, smoothed over time; see ``read_driver``. Keeps no frame."""
    selection = Selection(max_frames, max_fps, max_side=LARGEST_FRAME, max_seconds=max_seconds)
    video = FrameReader(path, selection)
    tracker = Tracker(head, image_size=image_size, encoder=encoder)
    tracked = tracker.track_motion(video, fps=video.timing.fps, progress=progress)

    def crops(numbers: Int[Tensor, " n"], size: int) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
        return (tracked.crop.extract(video[number], size) for number in numbers.tolist())

    timing = video.timing
    return Driver(tracked.params, ~tracked.valid, timing.times_s, timing.fps, crops, video, tracked.reasons)


def _track_photographs(
    path: Path,
    head: HeadModel,
    image_size: int,
    max_frames: int | None,
    fps: float,
    progress: Progress | None,
    encoder: DecaEncoder | None,
) -> Driver:
    """Poses of single photographs, not smoothed."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)[
            :max_frames
        ]
    if not files:
        raise ValueError(f"{path} has no photographs ({', '.join(PICTURE_SUFFIXES[:4])}, ...)")
    tracker = Tracker(head, image_size=image_size, encoder=encoder)
    params: list[HeadParams] = []
    found: list[Crop | None] = []
    for number, file in enumerate(files):
        try:
            tracked = tracker.track_motion(read_image(file)[None], face=0)
        except ValueError:
            # No face: a lost frame, unless it is the only one.
            if len(files) == 1:
                raise
            params.append(HeadParams.neutral(1, head.num_shape, head.num_expression))
            found.append(None)
        else:
            params.append(tracked.params)
            found.append(tracked.crop)
        if progress is not None:
            progress("photographs", number + 1, len(files))

    def crops(numbers: Int[Tensor, " n"], size: int) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
        for number in numbers.tolist():
            crop = found[number]
            if crop is None:
                yield np.full((size, size, 3), 255, np.uint8)
            else:
                yield crop.extract(read_image(files[number]), size)

    times = np.arange(len(files)) / fps
    lost = torch.tensor([each is None for each in found])
    reasons = tuple("no face" if each is None else "" for each in found)
    return Driver(HeadParams.cat(params), lost, times, fps, crops, None, reasons)
