"""One video to the clips that a shard stores of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8

import rome_lightning
from datamodules.codec import Clip
from datamodules.prepare.config import PrepareConfig
from datamodules.prepare.inputs import VideoInput
from datamodules.prepare.outlines import OutlineFitter
from datamodules.prepare.statistics import clip_statistics, head_angles, sharpness, thumbnail
from rome_lightning.media.video import Video, read_video
from rome_lightning.tracking.identity import Embedder, is_person, similarity_to_most
from rome_lightning.tracking.problems import REASONS, Problem
from rome_lightning.tracking.quality import split_shots
from rome_lightning.tracking.tracked import TrackedClip

TRACKER_REVISION = 7
"""Raised by every change that gives the same input other crops, parameters or masks."""
TRACKER = f"rome_lightning.tracking {rome_lightning.__version__}, revision {TRACKER_REVISION}"
"""Recorded in every clip; another version or revision makes different shards."""
SHORT_SHOT = "shot too short"
UNTRACKED = "shot cannot be tracked"
OTHER_PERSON = "another person"
UNVERIFIED = "person not verified"
TURNED = "turned too far"
UNSURE = "low confidence"
BLURRED = "blurred"
_OTHER_SHOT = REASONS[Problem.OTHER_SHOT]
_AGAIN = "tracked again as a shot of its own"
_FACES_PER_SHOT = 8
"""Frames of each shot whose identity is measured."""


@runtime_checkable
class SupportsTrack(Protocol):
    """A tracker that knows its head model and image size."""

    def track(self, frames: UInt8[np.ndarray, "n h w 3"], fps: float = 25.0) -> TrackedClip:
        """Track all frames of one person."""
        ...


@dataclass(frozen=True)
class VideoTools:
    """Reads a video."""

    tracker: SupportsTrack
    embed: Embedder | None
    """Tells people apart; None does not."""
    fit_outline: OutlineFitter | None = None
    """Fits offsets to the person's outline; None leaves clips without."""
    with_params: Callable[[np.ndarray, TrackedClip], TrackedClip] | None = None
    """Replaces the fit with another tracker's parameters, given the indices of the frames among those read;
    None keeps the fit."""


@dataclass
class VideoReport:
    """Outcome of one video, for ``report.html``; JSON values only."""

    input: str
    num_frames: int = 0
    """Frames that were read."""
    num_used: int = 0
    """Frames that went into clips."""
    footage_s: float = 0.0
    """Seconds of video that the used frames represent."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Frames by reason of rejection."""
    clips: list[dict[str, Any]] = field(default_factory=list)
    """See ``clip_statistics``."""
    best_rejected: dict[str, Any] | None = None
    """The best rejected frame: ``reason``, ``confidence``, ``picture`` (JPEG, base64)."""
    identity: str = ""
    face: list[float] = field(default_factory=list)
    """Mean embedding of the person's face, unit length; empty if it was not measured."""
    failed: str = ""
    """Why the whole video was rejected; empty if it was not."""
    kind: str = ""
    """Of the failure: ``unusable``, ``error``, ``crash`` or ``timeout``."""


@dataclass
class Shot:
    """A tracked shot and which of its frames can be used."""

    frames: np.ndarray
    """Numbers of its frames among those that were read."""
    clip: TrackedClip
    reasons: np.ndarray
    """Why each frame is rejected; empty if it is not."""
    sharpness: np.ndarray
    squares: np.ndarray
    """Left, top, right and bottom of each frame's crop, pixels of the source."""

    @property
    def usable(self) -> np.ndarray:
        """Indices of the frames without a reason."""
        return np.flatnonzero(self.reasons == "")

    def reject(self, where: np.ndarray, reason: str) -> None:
        """Give a reason to frames that have none."""
        self.reasons[np.asarray(where) & (self.reasons == "")] = reason


def make_clips(
    video: VideoInput,
    tools: VideoTools,
    config: PrepareConfig,
    head: str,
    report: VideoReport,
    content: Video | None = None,
) -> list[Clip]:
    """Read, track, filter and cut one video.

    Args:
        video: to read.
        tools: the tracker is made for the image size of ``config``.
        config: options.
        head: name of the head model that the tracker fits.
        report: filled in as processing proceeds.
        content: its frames, if already read, as from a folder of pictures.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the video cannot be used; the text says why.
    """
    content = content or read_video(
        video.path, config.max_frames, config.fps, config.start_s, config.max_side
    )
    report.num_frames = len(content)
    shots, complaints, counts = _track_shots(content, tools, config)
    if tools.embed is not None and config.min_identity_similarity is not None:
        report.face = check_identity(shots, tools.embed, config.min_identity_similarity)
    num_good = sum(len(shot.usable) for shot in shots)
    for shot in shots:
        if len(shot.usable) < config.min_frames:
            shot.reject(shot.reasons == "", SHORT_SHOT)
        counts.update(reason for reason in shot.reasons if reason not in ("", _AGAIN))
    report.rejected = {reason: count for reason, count in sorted(counts.items()) if count}
    report.num_used = sum(len(shot.usable) for shot in shots)
    report.footage_s = report.num_used / content.fps
    report.best_rejected = best_rejected(shots)
    if report.num_used == 0:
        counts[SHORT_SHOT] -= num_good
        if len(complaints) == 1 and not shots:
            raise ValueError(complaints[0])
        raise ValueError(_why_nothing(num_good, len(content), +counts, complaints, config))
    return list(cut_clips(video, shots, content, config, head, tools.fit_outline, report))


def _track_shots(
    content: Video, tools: VideoTools, config: PrepareConfig
) -> tuple[list[Shot], list[str], Counter[str]]:
    """Tracked shots, problems of the others, and their frames by reason."""
    shots: list[Shot] = []
    complaints: list[str] = []
    counts: Counter[str] = Counter()
    waiting = deque(split_shots(content.frames))
    whole = len(waiting) == 1
    while waiting:
        frames = waiting.popleft()
        if len(frames) < config.min_frames and not whole:
            counts[SHORT_SHOT] += len(frames)
            continue
        try:
            pictures = content.frames if len(frames) == len(content) else content.frames[frames]
            clip = tools.tracker.track(pictures, fps=content.fps)
            check_size(clip, config)
            if tools.with_params is not None:
                clip = tools.with_params(frames, clip)
        except ValueError as error:
            complaints.append(str(error))
            counts[UNTRACKED] += len(frames)
            continue
        shot = judged(frames, clip, config)
        rest = np.flatnonzero(shot.reasons == _OTHER_SHOT)
        if config.min_frames <= len(rest) < len(frames):
            # A cut that the colours do not show: the frames after it are a separate shot.
            shot.reasons[rest] = _AGAIN
            waiting.append(frames[rest])
        shots.append(shot)
    return shots, complaints, counts


def check_size(tracked: TrackedClip, config: PrepareConfig) -> None:
    """Refuse a face that would be upscaled too much."""
    upscale = config.image_size / tracked.crop.side
    if upscale > config.max_upscale:
        raise ValueError(
            f"the face is too small: its square has {tracked.crop.side} pixels, "
            f"image_size {config.image_size} would upscale it {upscale:.1f} times "
            f"(max_upscale {config.max_upscale})"
        )


def judged(frames: np.ndarray, clip: TrackedClip, config: PrepareConfig) -> Shot:
    """A shot with the results of tracker and thresholds for its frames."""
    valid = np.asarray(clip.valid, dtype=bool)
    reasons = np.array(
        ["" if good else reason or "invalid" for reason, good in zip(clip.reasons, valid, strict=True)],
        dtype=object,
    )
    values = sharpness(np.asarray(clip.images), _face_boxes(clip, config.image_size))
    corner = np.array([clip.crop.left, clip.crop.top], dtype=np.float32)
    square = np.concatenate([corner, corner + clip.crop.side])
    shot = Shot(frames, clip, reasons, values, np.tile(square, (len(frames), 1)))
    if valid.any():
        limits = np.array([config.max_yaw, config.max_pitch, config.max_roll])
        shot.reject((np.abs(head_angles(clip.params.pose)) > limits).any(1), TURNED)
        shot.reject(clip.confidence.numpy() < config.min_confidence, UNSURE)
        shot.reject(values < config.min_sharpness_ratio * np.median(values[valid]), BLURRED)
    return shot


def check_identity(shots: Sequence[Shot], embed: Embedder, least: float) -> list[float]:
    """Reject shots and frames that show anyone but the most frequent person; return that person's face."""
    chosen = [_spread(shot.usable, _FACES_PER_SHOT) for shot in shots]
    pictures = [np.asarray(shot.clip.images)[rows] for shot, rows in zip(shots, chosen, strict=True)]
    if sum(map(len, pictures)) == 0:
        return []
    weights = [len(shot.usable) / max(len(rows), 1) for shot, rows in zip(shots, chosen, strict=True)]
    repeats = torch.tensor([len(rows) for rows in chosen])
    each = torch.tensor(weights).repeat_interleave(repeats)
    similarity, face = similarity_to_most(np.concatenate(pictures), embed, least, each)
    start = 0
    for shot, rows in zip(shots, chosen, strict=True):
        measured = torch.full((len(shot.frames),), torch.nan)
        measured[torch.from_numpy(rows)] = similarity[start : start + len(rows)]
        start += len(rows)
        if len(shots) > 1 and bool(measured.isnan().all()):
            shot.reject(shot.reasons == "", UNVERIFIED)
        shot.reject(~is_person(measured, least).numpy(), OTHER_PERSON)
    return [float(f"{value:.4f}") for value in face]


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    if len(indices) == 0:
        return indices
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))]


def best_rejected(shots: Sequence[Shot]) -> dict[str, Any] | None:
    """The most reliable rejected frame."""
    left_out = [
        (float(shot.clip.confidence[index]), number, int(index))
        for number, shot in enumerate(shots)
        for index in np.flatnonzero((shot.reasons != "") & (shot.reasons != _AGAIN))
    ]
    if not left_out:
        return None
    confidence, number, frame = max(left_out)
    return {
        "reason": str(shots[number].reasons[frame]),
        "confidence": round(confidence, 3),
        "picture": thumbnail(np.asarray(shots[number].clip.images[frame])),
    }


def _why_nothing(
    num_good: int, num_frames: int, rejected: Counter[str], complaints: Sequence[str], config: PrepareConfig
) -> str:
    reasons = [f"{reason} {count}" for reason, count in sorted(rejected.items())]
    text = "; ".join([", ".join(reasons) or "too short", *complaints[:1]])
    return f"{num_good} of {num_frames} frames can be used, needs {config.min_frames} in a shot ({text})"


def _face_boxes(tracked: TrackedClip, size: int) -> Bool[np.ndarray, "n s s"]:
    """Boxes around the landmarks, so that hair and background do not affect the sharpness of a face."""
    landmarks = torch.nan_to_num(torch.as_tensor(tracked.landmarks)).float()
    low, high = landmarks.amin(1)[:, None].numpy(), landmarks.amax(1)[:, None].numpy()
    pixels = np.arange(size)
    columns = (pixels >= low[..., 0]) & (pixels <= high[..., 0])
    rows = (pixels >= low[..., 1]) & (pixels <= high[..., 1])
    return rows[:, :, None] & columns[:, None, :]


def cut_clips(
    video: VideoInput,
    shots: Sequence[Shot],
    content: Video,
    config: PrepareConfig,
    head: str,
    fit_outline: OutlineFitter | None,
    report: VideoReport,
) -> Iterator[Clip]:
    """The clips of the usable frames, numbered in order."""
    number = 0
    for shot in shots:
        usable = shot.usable
        for part in np.array_split(usable, -(-len(usable) // config.frames_per_clip)) if len(usable) else []:
            clip = _clip(f"{video.key}-{number:03d}", video, shot, part, content)
            clip = replace(
                clip, header={**clip.header, "dataset": config.dataset, "head": head, "tracker": TRACKER}
            )
            if fit_outline is not None:
                offsets = fit_outline(shot.clip[torch.from_numpy(part)])
                clip = replace(clip, arrays={**clip.arrays, "offsets": offsets})
            report.clips.append(clip_statistics(clip, shot.sharpness[part]))
            number += 1
            yield clip


def _clip(key: str, video: VideoInput, shot: Shot, part: np.ndarray, content: Video) -> Clip:
    params = shot.clip.params

    def rows(values: object) -> np.ndarray:
        return torch.as_tensor(values).detach().numpy()[part]

    return Clip(
        key=key,
        identity=video.identity,
        images=np.asarray(shot.clip.images)[part],
        regions=rows(shot.clip.regions).astype(np.uint8),
        matte=(rows(shot.clip.matte).clip(0, 1) * 255 + 0.5).astype(np.uint8),
        arrays={
            "shape": params.shape[0].detach().numpy(),
            "expression": rows(params.expression),
            "pose": rows(params.stored_pose),
            "camera": rows(params.camera),
            "landmarks": rows(shot.clip.landmarks)[..., :2],
            "bbox": shot.squares[part],
            "confidence": rows(shot.clip.confidence),
            "frame_number": content.frame_numbers[shot.frames[part]],
            "timestamp": content.timestamps[shot.frames[part]],
            "valid": np.ones(len(part), dtype=np.uint8),
        },
        header={
            "source": video.name,
            "source_sha256": video.sha256,
            "fps": f"{content.fps:.6g}",
            "source_height": str(content.frames.shape[1]),
            "source_width": str(content.frames.shape[2]),
        },
    )
