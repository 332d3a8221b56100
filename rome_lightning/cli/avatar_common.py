"""What the sub-commands of ``rome avatar`` share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.progress import shown
from rome_lightning.media.escaping import printable

if TYPE_CHECKING:
    from rome_lightning.avatar import Avatar
    from rome_lightning.media.video import Video
    from rome_lightning.tracking import TrackedClip

AVATAR_FILE = "avatar.safetensors"
LARGEST_FRAME = 1280
"""Drivers' frames are reduced to this longer side: more helps nobody and fills the memory."""


def add_avatar(parser: argparse.ArgumentParser) -> None:
    """The avatar as the first argument."""
    parser.add_argument("avatar", type=Path, help="Folder or file made by `rome avatar create`.")


def count(text: str) -> int:
    """A number of steps, pixels or frames, as argparse wants its types."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a whole number, 0 or more, got {text!r}")
    return int(text)


def avatar_path(given: Path) -> Path:
    """The avatar file of a folder, or the file itself."""
    return given / AVATAR_FILE if given.is_dir() or not given.suffix else given


def track_driver(avatar: Avatar, path: Path, max_frames: int | None) -> tuple[Video, TrackedClip]:
    """A driving video, and what the tracker finds in it.

    Args:
        avatar: that is to be driven.
        path: of the video.
        max_frames: stop after so many.
    """
    from rome_lightning.media.video import read_video
    from rome_lightning.tracking import Tracker

    video = read_video(path, max_frames=max_frames, max_side=LARGEST_FRAME)
    print(printable(f"tracking {len(video)} frames of {path}"), file=sys.stderr)
    tracker = Tracker(avatar.model.head, image_size=avatar.image_size[0])
    with shown("tracking", len(video)) as update:
        tracked = tracker.track(
            video.frames, fps=video.fps, masks=False, progress=lambda _stage, done, _total: update(done)
        )
    return video, tracked
