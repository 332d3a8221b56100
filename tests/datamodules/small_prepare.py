"""Inputs of preparation that take milliseconds, and the settings for them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from fake_tracker import SquareTracker
from PIL import Image

from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig, prepare

CONFIG = PrepareConfig(
    image_size=64, fps=None, frames_per_clip=8, min_frames=4, videos_per_shard=2, min_identity_similarity=None
)


def run(videos: list[Path], output: Path, log: list[str] | None = None, **changes: Any) -> Manifest:
    """Prepare videos with ``SquareTracker``."""
    config = dataclasses.replace(CONFIG, **changes)
    lines = log if log is not None else []
    return prepare(videos, output, config, log=lines.append, make_tracker=SquareTracker)


def picture(seed: int, number: int) -> bytes:
    """A PNG of 96 x 80 pixels: a texture that brightens with the number."""
    texture = np.random.default_rng(seed).integers(0, 80, (80, 96, 3))
    buffer = io.BytesIO()
    Image.fromarray((texture + 4 * number).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
