"""Several photographs of one person: each tracked on its own, one identity fitted to all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from rome_lightning.tracking.detector import BLENDSHAPE_NAMES
from rome_lightning.tracking.fit import fit_clip, match_blendshapes
from rome_lightning.tracking.tracker import TrackedClip, Tracker
from rome_lightning.types import Frames, Region

_STILL_SIGMA = 0.3
"""Frames over which shoulders are averaged: fewer than one, because photographs do not follow each other."""


def track_photos(
    tracker: Tracker, photos: Sequence[UInt8[np.ndarray, "h w 3"]], names: Sequence[str] | None = None
) -> Frames:
    """Track photographs of one person, of any sizes.

    Args:
        tracker: sets the size of the crops.
        photos: RGB.
        names: of the photographs, for messages.

    Returns:
        One frame per photograph, in order, all with the same identity coefficients.

    Raises:
        ValueError: a photograph cannot be used; says which and why.
    """
    names = names or [f"photograph {index + 1}" for index in range(len(photos))]
    if not photos:
        raise ValueError("at least one photograph is needed")
    clips = [_track_one(tracker, photo, name) for photo, name in zip(photos, names, strict=True)]
    if len(clips) == 1:
        return clips[0].to_frames()
    frames = Frames.cat([clip.to_frames() for clip in clips])
    settings = dataclasses.replace(
        tracker.fit_settings,
        smooth_pose=False,
        bust_sigma=_STILL_SIGMA,
        max_keyframes=max(len(clips), tracker.fit_settings.max_keyframes),
    )
    landmarks, scores = [], []
    for clip, photo in zip(clips, photos, strict=True):
        # A tracked clip keeps neither depth nor scores, and detection is quick.
        found = tracker.detector.detect(photo[None])
        points = torch.cat([found.landmarks, found.depth[..., None]], dim=-1)
        landmarks.append(clip.crop.to_crop(points, tracker.image_size))
        scores.append(match_blendshapes(found.blendshapes, BLENDSHAPE_NAMES, tracker.head.expression_names))
    size = (tracker.image_size, tracker.image_size)
    inside = torch.stack([clip.crop.inside(tracker.image_size) for clip in clips])
    known = inside & (frames.regions != int(Region.OUTSIDE))
    person = torch.where(known, frames.foreground_mask[:, 0], 1.0)
    fit = fit_clip(
        tracker.head, torch.cat(landmarks), size, torch.cat(scores), settings=settings, foreground=person
    )
    return dataclasses.replace(frames, params=fit.params)


def _track_one(tracker: Tracker, photo: UInt8[np.ndarray, "h w 3"], name: str) -> TrackedClip:
    try:
        clip = tracker.track(photo[None])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not bool(clip.valid.all()):
        raise ValueError(f"{name} cannot be used: {clip.reasons[0]}; take another photo")
    return clip
