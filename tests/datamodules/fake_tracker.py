"""Videos without faces, and a tracker that finds a square in them; importable by child processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.prepare import PrepareConfig
from rome_lightning.head import HeadModel
from rome_lightning.media.video import write_video
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.identity import Embedder
from rome_lightning.tracking.problems import Problem
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.types import HeadParams, Region

RED, GREEN, BLUE = (150, 30, 30), (30, 150, 30), (30, 30, 150)


def coloured(colour: tuple[int, int, int], num_frames: int, seed: int = 0) -> list[np.ndarray]:
    """Frames of one colour and a texture, 96 x 80 pixels: a shot, and a person for ``colour_embedder``."""
    texture = np.random.default_rng(seed).integers(0, 60, (80, 96, 3)) + np.array(colour)
    return [np.clip(texture + i, 0, 255).astype(np.uint8) for i in range(num_frames)]


def write_clip(path: Path, seed: int, num_frames: int = 12) -> Path:
    """Textured frames of 96 x 80 pixels that brighten slowly."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 80, (80, 96, 3))
    frames = [np.clip(texture + 4 * i, 0, 255).astype(np.uint8) for i in range(num_frames)]
    return write_video(path, frames, fps=12)


class SquareTracker:
    """Finds a face in the same square of every frame; the third frame is always a profile."""

    calls: int = 0

    def __init__(self, head: HeadModel, config: PrepareConfig) -> None:
        self.head, self.config = head, config

    def track(self, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        SquareTracker.calls += 1
        if len(frames) < 3:
            raise ValueError("no face found in 2 frames")
        n, size = len(frames), self.config.image_size
        crop = Crop(left=-10, top=5, side=70, frame_size=frames.shape[1:3])
        params = HeadParams.neutral(n, self.head.num_shape, self.head.num_expression)
        params = dataclasses.replace(params, camera=params.camera + torch.arange(n)[:, None])
        problems = torch.zeros(n, dtype=torch.int16)
        problems[2] = int(Problem.PROFILE)
        corners = torch.tensor([[10.0, 10.0], [50.0, 50.0]]).repeat(n, 239, 1)
        return TrackedClip(
            images=torch.from_numpy(np.stack([crop.extract(frame, size) for frame in frames])),
            params=params,
            landmarks=corners + torch.arange(n)[:, None, None],
            regions=torch.where(crop.inside(size), 3, int(Region.OUTSIDE)).byte().repeat(n, 1, 1),
            matte=torch.full((n, size, size), 0.5, dtype=torch.half),
            residual=torch.full((n,), 0.02),
            covered=torch.zeros(n),
            problems=problems,
            crop=crop,
        )


class FaultyTracker(SquareTracker):
    """Kills its process on a red video, hangs on a blue one, and has a bug on a green one."""

    def track(self, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        red, green, blue = frames[0].mean((0, 1))
        if red > 1.5 * max(green, blue):
            os.kill(os.getpid(), signal.SIGSEGV)
        if blue > 1.5 * max(red, green):
            time.sleep(600)
        if green > 1.5 * max(red, blue):
            raise KeyError("blendshape")
        return super().track(frames, fps)


class SlowTracker(SquareTracker):
    """Runs long enough to be killed at any moment."""

    def track(self, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        time.sleep(0.1)
        return super().track(frames, fps)


class JumpTracker(SquareTracker):
    """Finds a jump where the image suddenly brightens by a tenth of the range."""

    def track(self, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        clip = super().track(frames, fps)
        brightness = frames.mean((1, 2, 3))
        other = torch.from_numpy(brightness > brightness[0] + 25)
        return dataclasses.replace(clip, problems=torch.where(other, int(Problem.OTHER_SHOT), clip.problems))


def colour_embedder() -> Embedder:
    """Identifies the person by the strongest colour; finds no face in grey images."""

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        means = images.mean((2, 3))
        found = means.amax(1) > 1.3 * means.amin(1)
        return functional.one_hot(means.argmax(1), 3).float() * found[:, None], found

    return embed


class PhotoTracker(SquareTracker):
    """Finds a square in single images; none in blue ones."""

    def track(self, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        red, _, blue = frames[0].mean((0, 1))
        if blue > 1.5 * red:
            raise ValueError("no face found in the photo")
        clip = super().track(np.repeat(frames, 3, axis=0), fps)
        return clip[slice(0, 1)]
