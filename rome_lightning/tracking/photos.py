"""Several photographs of one person: each tracked on its own, one identity fitted to all."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, Detections
from rome_lightning.tracking.fit import fit_clip, match_blendshapes
from rome_lightning.tracking.foreign import FlameTrack, apply_to_photos
from rome_lightning.tracking.foreign.converting import with_shape
from rome_lightning.tracking.problems import Problem
from rome_lightning.tracking.quality import worn
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.tracking.tracker import Tracker
from rome_lightning.types import Frames, HeadParams, Region
from rome_lightning.types.landmarks import LEFT_IRIS, RIGHT_IRIS

_STILL_SIGMA = 0.3
"""Frames over which shoulders are averaged: fewer than one, because photographs do not follow each other."""


SIDEWAYS = 50.0
"""Roll of a face, degrees, beyond which a photo is rotated by a quarter turn."""
_MIN_SHOWN = 0.03
"""Share of a zone above which something worn is reported, because masks have specks."""
_BEARABLE = Problem.SEVERAL_FACES | Problem.SMALL | Problem.OUTSIDE | Problem.PROFILE | Problem.COVERED
"""Problems that a photo may have: they only degrade the avatar. In a video, other frames are better."""


def track_photos(
    tracker: Tracker,
    photos: Sequence[UInt8[np.ndarray, "h w 3"]],
    names: Sequence[str] | None = None,
    face: int | None = None,
    warn: Callable[[str], None] | None = None,
    tracks: Sequence[FlameTrack] | None = None,
) -> Frames:
    """Track photographs of one person, of any sizes.

    Only photographs in which no face can be tracked are refused. Warnings say what will look wrong: glasses,
    hats, hands and other objects, a face that is small, in profile, cut off, or one of several. A photograph
    whose face is sideways or upside down is rotated by quarter turns.

    Args:
        tracker: sets the size of the crops.
        photos: RGB.
        names: of the photographs, for messages.
        face: number of the person in each photo, from left to right, from 1; by default the largest.
        warn: called with each warning; by default Python's ``warnings``.
        tracks: FLAME parameters of another tracker, of one row per photograph; ours by default.

    Returns:
        One frame per photograph, in order, all with the same identity coefficients.

    Raises:
        ValueError: a photograph cannot be used, or parameters do not fit it; says which and why.
    """
    warn = warn or _python_warning
    names = names or [f"photograph {index + 1}" for index in range(len(photos))]
    if not photos:
        raise ValueError("at least one photograph is needed")
    tracked = [
        _track_one(tracker, photo, name, face, warn) for photo, name in zip(photos, names, strict=True)
    ]
    clips = [photo.clip for photo in tracked]
    if tracks is not None:
        turned = [name for name, photo in zip(names, tracked, strict=True) if photo.turns]
        if turned:
            raise ValueError(f"{turned[0]} is not upright; rotate it and estimate its parameters again")
        applied = apply_to_photos(tracker.head, clips, tracks, names, warn)
        return Frames.cat([clip.to_frames() for clip in applied])
    if len(tracked) == 1:
        return clips[0].to_frames()
    frames = Frames.cat([clip.to_frames() for clip in clips])
    params = fit_together(tracker, clips, [photo.found for photo in tracked])
    return dataclasses.replace(frames, params=params)


def fit_together(tracker: Tracker, clips: Sequence[TrackedClip], found: Sequence[Detections]) -> HeadParams:
    """Fit individually tracked photographs again, with one identity for all of them.

    An encoder's estimates get their mean identity.

    Args:
        tracker: that tracked them.
        clips: of one frame each.
        found: the face of each.
    """
    if tracker.encoder is not None:
        params = HeadParams.cat([clip.params for clip in clips])
        return with_shape(tracker.head, params, params.shape.mean(0))
    settings = dataclasses.replace(
        tracker.fit_settings,
        smooth_pose=False,
        bust_sigma=_STILL_SIGMA,
        shoulder_sigma=_STILL_SIGMA,
        max_keyframes=max(len(clips), tracker.fit_settings.max_keyframes),
    )
    landmarks, scores = [], []
    for clip, face in zip(clips, found, strict=True):
        points = torch.cat([face.landmarks, face.depth[..., None]], dim=-1)
        landmarks.append(clip.crop.to_crop(points, tracker.image_size))
        scores.append(match_blendshapes(face.blendshapes, BLENDSHAPE_NAMES, tracker.head.expression_names))
    size = (tracker.image_size, tracker.image_size)
    inside = torch.stack([clip.crop.inside(tracker.image_size) for clip in clips])
    known = inside & (torch.cat([clip.regions for clip in clips]) != int(Region.OUTSIDE))
    person = torch.where(known, torch.cat([clip.matte for clip in clips]).float(), 1.0)
    fit = fit_clip(
        tracker.head,
        torch.cat(landmarks),
        size,
        torch.cat(scores),
        settings=settings,
        foreground=person,
        model=tracker.landmark_model,
    )
    return fit.params


@dataclass(frozen=True)
class _Photo:
    """The detections in a photograph, rotated so that the face is upright."""

    found: Detections
    clip: TrackedClip
    turns: int
    """Quarters, counter-clockwise."""


def _track_one(
    tracker: Tracker,
    picture: UInt8[np.ndarray, "h w 3"],
    name: str,
    face: int | None,
    warn: Callable[[str], None],
) -> _Photo:
    try:
        photo = _upright(tracker, picture, face or 0)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    clip, people = photo.clip, int(photo.found.num_faces[0])
    if int(clip.problems[0]) & ~_BEARABLE:
        raise ValueError(f"{name} cannot be used: {clip.reasons[0]}; use another photo")
    if photo.turns:
        warn(
            f"{name} was rotated by {90 * photo.turns} degrees counter-clockwise so that the face is upright"
        )
    if face is None and people > 1:
        warn(f"{name} shows {people} people; the largest face is used, choose another with face=N")
    for text in faults_to_expect(clip):
        warn(f"{name}: {text}")
    return photo


def _upright(tracker: Tracker, picture: UInt8[np.ndarray, "h w 3"], face: int) -> _Photo:
    """Track the picture, rotated if the face is not upright."""
    detector = tracker.detector
    found = detector.detect(picture[None], face=face)
    eyes = found.landmarks[0, LEFT_IRIS[0]] - found.landmarks[0, RIGHT_IRIS[0]]
    upright = bool(found.found[0]) and abs(float(torch.rad2deg(torch.atan2(eyes[1], eyes[0])))) < SIDEWAYS
    clip = tracker.track(picture[None], face=face, detections=found) if upright else None
    if clip is not None and not int(clip.problems[0]) & Problem.UPSIDE_DOWN:
        return _Photo(found, clip, 0)
    turns = detector.quarter_turns(picture)
    if turns:
        picture = np.ascontiguousarray(np.rot90(picture, turns))
        found = detector.detect(picture[None], face=face)
    return _Photo(found, tracker.track(picture[None], face=face, detections=found), turns)


def faults_to_expect(clip: TrackedClip) -> list[str]:
    """What will look wrong in an avatar of a photograph, one sentence each.

    Args:
        clip: of one frame.
    """
    problems = int(clip.problems[0])
    shares = worn(clip.landmarks[0], clip.regions[0], clip.regions[0] != int(Region.OUTSIDE))
    texts = {
        "glasses or another object in front of the eyes: they move like skin, and what dark lenses "
        "hide stays hidden": shares["eyewear"] > _MIN_SHOWN,
        "a hat, hood or veil: it moves like hair, and what is under it is unknown": shares["headwear"] > 0.1,
        "a beard or hair over mouth and chin: it stretches with the skin when the mouth opens": shares[
            "lower_hair"
        ]
        > 0.15,
        f"a hand or object in front of {float(clip.covered[0]):.0%} of the face: it sticks to the face and "
        "hides what is behind it": float(clip.covered[0]) > _MIN_SHOWN,
        "the face is small: the avatar will be blurred": bool(problems & Problem.SMALL),
        "the face extends beyond the photo: the missing part is guessed": bool(problems & Problem.OUTSIDE),
        "the face is in profile: its far half is guessed": bool(problems & Problem.PROFILE),
    }
    return [text for text, applies in texts.items() if applies]


def _python_warning(text: str) -> None:
    warnings.warn(text, stacklevel=4)
