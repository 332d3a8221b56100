"""Replace our fit with another tracker's parameters: convert its camera, check both by the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.tracking.foreign.cameras import PinholeCamera
from rome_lightning.tracking.foreign.converting import MOST_RESIDUAL, convert, fitted_width
from rome_lightning.tracking.foreign.formats import FlameTrack
from rome_lightning.tracking.problems import Problem
from rome_lightning.tracking.tracked import TrackedClip


@dataclass(frozen=True)
class Applied:
    """A clip with another tracker's parameters."""

    clip: TrackedClip
    camera_error: Float[Tensor, " n"] | None
    """Mean distance between the face's vertices in the other tracker's projection and in ours, in interocular
    distances; None if it has no camera, so that ours is fitted to the landmarks."""


def apply_track(
    head: HeadModel,
    clip: TrackedClip,
    track: FlameTrack,
    shape: Float[Tensor, " s"] | None = None,
    picture_size: tuple[int, int] | None = None,
) -> Applied:
    """Replace the parameters of a tracked clip.

    The camera is the weak perspective nearest to the other tracker's projection of the face. It is exact for
    cameras like DECA's; from a perspective camera, it keeps the direction and size of the head. Frames
    that our landmarks contradict by more than ``MOST_RESIDUAL`` are marked ``POOR_FIT``.

    Args:
        head: FLAME; it gets MediaPipe's landmarks if it has none.
        clip: in which the tracker found the person.
        track: one row per frame of the clip.
        shape: identity of all frames, as many coefficients as the track has; its mean, if None.
        picture_size: height and width of the pictures that the other tracker saw, if ours saw them
            downscaled.

    Raises:
        ValueError: the head is not FLAME, or the counts differ.
    """
    if len(track) != len(clip):
        raise ValueError(f"{len(track)} rows of parameters for {len(clip)} pictures")
    size = clip.images.shape[-2]
    found = convert(head, track, clip.crop, clip.landmarks, size, shape, picture_size)
    shown = (clip.problems & int(Problem.NO_FACE)) == 0
    poor = shown & ~(found.residual <= MOST_RESIDUAL)
    problems = clip.problems & ~int(Problem.POOR_FIT) | (int(Problem.POOR_FIT) * poor).to(clip.problems.dtype)
    residual = torch.where(shown, found.residual, torch.nan)
    clip = replace(clip, params=found.params, residual=residual, problems=problems)
    return Applied(clip, found.camera_error)


def apply_to_photos(
    head: HeadModel,
    clips: Sequence[TrackedClip],
    tracks: Sequence[FlameTrack],
    names: Sequence[str],
    warn: Callable[[str], None],
) -> list[TrackedClip]:
    """``apply_track`` for photographs of one person, who gets the mean identity.

    Args:
        head: FLAME.
        clips: of one frame each.
        tracks: of one row each.
        names: of the photographs, for messages.
        warn: called with everything that the parameters cannot represent.

    Raises:
        ValueError: as for ``apply_track``, or parameters do not belong to their photograph.
    """
    # Trackers estimate different numbers of coefficients; those beyond are 0.
    widest = max(track.shape.shape[1] for track in tracks)
    shape = torch.cat([fitted_width(track.shape, widest) for track in tracks]).mean(0)
    result = []
    for clip, track, name in zip(clips, tracks, names, strict=True):
        applied = apply_track(head, clip, track, shape)
        if int(applied.clip.problems[0]) & Problem.POOR_FIT:
            raise ValueError(
                f"the parameters do not fit {name}: its landmarks are "
                f"{float(applied.clip.residual[0]):.0%} of the interocular distance away from the head's "
                f"(at most {MOST_RESIDUAL:.0%}); is it the picture that {track.kind} saw, and if that was "
                "a crop, does the file have tform?"
            )
        for text in describe(track, applied):
            warn(f"{name}: {text}")
        result.append(applied.clip)
    return result


def describe(track: FlameTrack, applied: Applied) -> list[str]:
    """What is lost of each track, as text; empty if nothing is."""
    texts = [f"{text}: ignored, because FLAME's parameters do not have them" for text in track.left_out]
    if isinstance(track.camera, PinholeCamera) and applied.camera_error is not None:
        texts.append(
            f"the camera of {track.kind} has perspective, ours does not: the two projections of the face "
            f"differ by {float(applied.camera_error.median()):.1%} of the interocular distance"
        )
    return texts


def rows_of(track: FlameTrack, names: Sequence[str]) -> FlameTrack:
    """The rows of pictures by name, or in order where the track has no names.

    Args:
        track: of a whole clip.
        names: of the pictures without suffix; VHAP's time step is what follows the last underscore.

    Raises:
        ValueError: a picture has no row, or the counts differ.
    """
    if not track.names:
        if len(track) != len(names):
            raise ValueError(f"{len(names)} pictures, but parameters of {len(track)} frames")
        return track
    places = {name: row for row, name in enumerate(track.names)}
    if len(places) < len(track.names):
        twice = next(name for name in track.names if track.names.count(name) > 1)
        raise ValueError(f"the parameters name {twice} more than once, so its picture is not known")
    rows = [places.get(name, places.get(name.rpartition("_")[2])) for name in names]
    lacking = [name for name, row in zip(names, rows, strict=True) if row is None]
    if lacking:
        raise ValueError(f"no parameters for picture {lacking[0]} ({len(lacking)} of {len(names)} lack them)")
    return track[torch.tensor(rows)]
