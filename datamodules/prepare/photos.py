"""From the photographs of one person to the clip that a shard stores."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from datamodules.codec import Clip
from datamodules.prepare.clips import (
    Shot,
    VideoReport,
    VideoTools,
    best_rejected,
    check_identity,
    check_size,
    cut_clips,
    judged,
)
from datamodules.prepare.config import PrepareConfig
from datamodules.prepare.inputs import VideoInput
from rome_lightning.media.pictures import read_image
from rome_lightning.media.video import Video
from rome_lightning.tracking.photos import fit_together
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.tracking.tracker import Tracker

UNTRACKED = "photograph cannot be tracked"
_FPS = 1.0
"""Photographs are stored as if they were taken a second apart."""


def make_photo_clips(
    video: VideoInput, tools: VideoTools, config: PrepareConfig, head: str, report: VideoReport
) -> list[Clip]:
    """Read, track and filter all photographs of one person; the usable ones share one identity.

    Thresholds are those of videos, but one photograph is enough.

    Args:
        video: the photographs.
        tools: the tracker is made for the image size of ``config``.
        config: options.
        head: name of the head model that the tracker fits.
        report: filled in as processing proceeds.

    Raises:
        FileNotFoundError: a photograph is gone.
        ValueError: none is usable; the message says why.
    """
    photos = [read_image(path) for path in video.photos[: config.max_frames]]
    report.num_frames = len(photos)
    shots, complaints = _track_each(photos, video.photos, tools, config)
    if tools.embed is not None and config.min_identity_similarity is not None:
        report.face = check_identity(shots, tools.embed, config.min_identity_similarity)
    counts = Counter(str(shot.reasons[0]) for shot in shots if shot.reasons[0])
    counts[UNTRACKED] += len(complaints)
    report.rejected = {reason: count for reason, count in sorted(counts.items()) if count}
    report.best_rejected = best_rejected(shots)
    used = [shot for shot in shots if len(shot.usable)]
    report.num_used = len(used)
    if not used:
        told = [f"{reason} {count}" for reason, count in report.rejected.items() if reason != UNTRACKED]
        raise ValueError("; ".join([*told, *complaints[:1]]))
    numbers = np.arange(len(photos), dtype=np.int32)
    first = photos[int(used[0].frames[0])]
    content = Video(first[None], _FPS, numbers / _FPS, numbers)
    album = _together(used, photos, tools)
    return list(cut_clips(video, [album], content, config, head, tools.fit_outline, report))


def _track_each(
    photos: list[UInt8[np.ndarray, "h w 3"]],
    paths: tuple[Path, ...],
    tools: VideoTools,
    config: PrepareConfig,
) -> tuple[list[Shot], list[str]]:
    """A shot of one frame per tracked photograph, and the problems of the others."""
    shots, complaints = [], []
    for number, photo in enumerate(photos):
        try:
            clip = tools.tracker.track(photo[None], fps=_FPS)
            check_size(clip, config)
        except ValueError as error:
            complaints.append(f"{paths[number].name}: {error}" if len(photos) > 1 else str(error))
            continue
        shots.append(judged(np.array([number]), clip, config))
    return shots, complaints


def _together(used: list[Shot], photos: list[UInt8[np.ndarray, "h w 3"]], tools: VideoTools) -> Shot:
    """The usable photographs as one shot, with one identity fitted to all."""
    clips = [shot.clip for shot in used]
    numbers = np.concatenate([shot.frames for shot in used])
    whole = TrackedClip.cat(clips)
    # Another tracker's results are kept: there is nothing to refit.
    if len(clips) > 1 and isinstance(tools.tracker, Tracker):
        # Detect again: a tracked clip keeps neither depth nor scores, and detection is fast.
        found = [tools.tracker.detector.detect(photos[number][None]) for number in numbers]
        params = fit_together(tools.tracker, clips, found)
        whole = replace(whole, params=params)
    return Shot(
        frames=numbers,
        clip=whole,
        reasons=np.array([""] * len(numbers), dtype=object),
        sharpness=np.concatenate([shot.sharpness for shot in used]),
        squares=np.concatenate([shot.squares for shot in used]),
    )
