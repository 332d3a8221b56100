"""Properties that must not depend on the engine."""

from __future__ import annotations

from pathlib import Path

import torch
from fake_tracker import SquareTracker, write_clip

from datamodules.prepare import BuildOptions, PrepareConfig, prepare


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a dataset's files that must not depend on the engine."""
    kinds = (".tar", ".npy", ".safetensors", "manifest.json")
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name.endswith(kinds)}


def assert_same_weights(run: Path, whole: Path) -> None:
    """Two runs ended bit-equal."""
    one, other = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (run, whole)
    )
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def write_videos(folder: Path, count: int) -> Path:
    """A folder of short videos."""
    folder.mkdir()
    for number in range(count):
        write_clip(folder / f"v{number:02d}.mp4", number)
    return folder


def prepare_squares(videos: Path, output: Path, options: BuildOptions) -> list[str]:
    """Make a dataset with an instant tracker, one shard per video; returns the output."""
    said: list[str] = []
    config = PrepareConfig(
        image_size=64, fps=None, min_frames=4, videos_per_shard=1, min_identity_similarity=None
    )
    prepare([videos], output, config, log=said.append, options=options, make_tracker=SquareTracker)
    return said
