"""Offsets of hair, neck and shoulders of a tracked clip, fitted to the person's outline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float16, Int

from datamodules.prepare.statistics import head_angles
from rome_lightning.head import HeadModel
from rome_lightning.renderer import get_rasterizer
from rome_lightning.tracking.ears import fit_ears
from rome_lightning.tracking.outline import fit_outline
from rome_lightning.tracking.tracked import TrackedClip

FIT_SIZE = 256
"""Largest side of the images that offsets are fitted to, pixels; an outline needs no more."""
MAX_FRAMES = 4
"""Frames of a clip that its offsets are fitted to."""
LEAST_TURN_DEG = 5.0
"""Smallest rotation between a further frame and those already chosen, degrees."""

OutlineFitter = Callable[[TrackedClip], Float16[np.ndarray, "v 3"]]
"""Offsets of the head at rest, metres, from the usable frames of one clip."""


def outline_fitter(head: HeadModel) -> OutlineFitter:
    """Fits offsets with the fastest rasterizer there is."""
    rasterizer = get_rasterizer("auto")

    def fit(clip: TrackedClip) -> Float16[np.ndarray, "v 3"]:
        frames = clip[torch.from_numpy(frames_to_fit(clip))].to_frames()
        frames = frames.resized(min(FIT_SIZE, frames.image_size[0]))
        offsets = fit_outline(head, frames, rasterizer, fit_ears(head, frames, rasterizer))
        return offsets[0].numpy().astype(np.float16)

    return fit


def frames_to_fit(clip: TrackedClip) -> Int[np.ndarray, " k"]:
    """The frame with the most typical expression, then those turned furthest from the chosen ones."""
    expression = clip.params.expression.numpy()
    distance = np.abs(expression - np.median(expression, axis=0)).sum(axis=1)
    chosen = [int(distance.argmin())]
    turns = head_angles(clip.params.pose)[:, :2]
    while len(chosen) < min(MAX_FRAMES, len(clip)):
        nearest = np.linalg.norm(turns[:, None] - turns[chosen], axis=2).min(axis=1)
        if nearest.max() < LEAST_TURN_DEG:
            break
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
