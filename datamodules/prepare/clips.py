"""One video to the clips that a shard stores of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

import rome_lightning
from datamodules.codec import Clip
from datamodules.prepare.config import PrepareConfig
from rome_lightning.tracking.tracker import TrackedClip
from rome_lightning.tracking.video import Video, read_video

TRACKER = f"rome_lightning.tracking {rome_lightning.__version__}"
"""Named in every clip; another version makes other shards."""
BLURRED = "blurred"


@runtime_checkable
class SupportsTrack(Protocol):
    """A tracker that knows its head model and image size."""

    def track(self, frames: UInt8[np.ndarray, "n h w 3"], fps: float = 25.0) -> TrackedClip:
        """Track all frames of one person."""
        ...


@dataclass(frozen=True)
class VideoInput:
    """A video and what the dataset calls it."""

    path: Path
    key: str
    """Letters, digits and ``_``; clips append ``-000`` and so on, which keeps them in the videos' order."""
    identity: str
    sha256: str


@dataclass(frozen=True)
class VideoClips:
    """What became of one video."""

    clips: Iterator[Clip]
    num_clips: int
    num_frames: int
    """Frames that were tracked."""
    num_used: int
    """Frames that went into clips."""
    rejected: dict[str, int]
    """Frames by reason of rejection."""


def make_clips(video: VideoInput, tracker: SupportsTrack, config: PrepareConfig, head: str) -> VideoClips:
    """Read, track, filter and cut one video.

    Args:
        video: to read.
        tracker: made for the image size of ``config``.
        config: options.
        head: name of the head model that the tracker fits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the video cannot be used; the text says why.
    """
    content = read_video(video.path, config.max_frames, config.fps, config.start_s, config.max_side)
    tracked = tracker.track(content.frames, fps=content.fps)
    _check_size(tracked, config)
    images = np.asarray(tracked.images)
    usable, rejected = _usable_frames(images, tracked, config)
    if len(usable) < config.min_frames:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items()) or "too short"
        raise ValueError(
            f"{len(usable)} of {len(content)} frames can be used, needs {config.min_frames} ({reasons})"
        )
    parts = np.array_split(usable, -(-len(usable) // config.frames_per_clip))

    def clips() -> Iterator[Clip]:
        for number, part in enumerate(parts):
            header = {"dataset": config.dataset, "head": head, "tracker": TRACKER}
            yield _clip(video, number, part, images, content, tracked, header)

    return VideoClips(clips(), len(parts), len(content), len(usable), rejected)


def _check_size(tracked: TrackedClip, config: PrepareConfig) -> None:
    upscale = config.image_size / tracked.crop.side
    if upscale > config.max_upscale:
        raise ValueError(
            f"the face is too small: its square has {tracked.crop.side} pixels, "
            f"image_size {config.image_size} would enlarge it {upscale:.1f} times "
            f"(max_upscale {config.max_upscale})"
        )


def sharpness(
    images: UInt8[np.ndarray, "n s s 3"], inside: Bool[np.ndarray, "n s s"]
) -> Float[np.ndarray, " n"]:
    """Mean squared Laplacian of the luminance inside a mask; falls with blur of focus or motion."""
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    laplacian = np.zeros_like(grey)
    laplacian[:, 1:-1, 1:-1] = (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    ) - 4 * grey[:, 1:-1, 1:-1]
    area = inside.sum((1, 2)).clip(1)
    return (laplacian**2 * inside).sum((1, 2)) / area


def _usable_frames(
    images: UInt8[np.ndarray, "n s s 3"], tracked: TrackedClip, config: PrepareConfig
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the frames to keep, and the others counted by reason."""
    valid = np.asarray(tracked.valid, dtype=bool)
    reasons: Counter[str] = Counter(
        reason or "invalid" for reason, good in zip(tracked.reasons, valid, strict=True) if not good
    )
    if valid.any():
        values = sharpness(images, _face_boxes(tracked, config.image_size))
        sharp = values >= config.min_sharpness_ratio * np.median(values[valid])
        blurred = int((valid & ~sharp).sum())
        if blurred:
            reasons[BLURRED] = blurred
        valid &= sharp
    return np.flatnonzero(valid), dict(sorted(reasons.items()))


def _face_boxes(tracked: TrackedClip, size: int) -> Bool[np.ndarray, "n s s"]:
    """Boxes around the landmarks: hair and background must not decide whether a face is sharp."""
    landmarks = torch.nan_to_num(torch.as_tensor(tracked.landmarks)).float()
    low, high = landmarks.amin(1)[:, None].numpy(), landmarks.amax(1)[:, None].numpy()
    pixels = np.arange(size)
    columns = (pixels >= low[..., 0]) & (pixels <= high[..., 0])
    rows = (pixels >= low[..., 1]) & (pixels <= high[..., 1])
    return rows[:, :, None] & columns[:, None, :]


def _clip(
    video: VideoInput,
    number: int,
    part: np.ndarray,
    images: UInt8[np.ndarray, "n s s 3"],
    content: Video,
    tracked: TrackedClip,
    header: dict[str, str],
) -> Clip:
    params = tracked.params
    crop = tracked.crop
    corners = [crop.left, crop.top, crop.left + crop.side, crop.top + crop.side]

    def rows(values: object) -> np.ndarray:
        return torch.as_tensor(values).detach().numpy()[part]

    return Clip(
        key=f"{video.key}-{number:03d}",
        identity=video.identity,
        images=images[part],
        regions=rows(tracked.regions).astype(np.uint8),
        matte=(rows(tracked.matte).clip(0, 1) * 255 + 0.5).astype(np.uint8),
        arrays={
            "shape": params.shape[0].detach().numpy(),
            "expression": rows(params.expression),
            "pose": rows(params.pose),
            "camera": rows(params.camera),
            "landmarks": rows(tracked.landmarks)[..., :2],
            "bbox": np.tile(np.array(corners, dtype=np.float32), (len(part), 1)),
            "confidence": rows(tracked.confidence),
            "frame_number": content.frame_numbers[part],
            "timestamp": content.timestamps[part],
            "valid": np.ones(len(part), dtype=np.uint8),
        },
        header={
            **header,
            "source": video.path.name,
            "source_sha256": video.sha256,
            "fps": f"{content.fps:.6g}",
            "source_height": str(content.frames.shape[1]),
            "source_width": str(content.frames.shape[2]),
        },
    )
