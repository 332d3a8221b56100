"""Shared parts of the sub-commands of ``rome avatar``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rome_lightning.media.escaping import printable

if TYPE_CHECKING:
    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.driver import Driver
    from rome_lightning.tracking.detector import Progress
    from rome_lightning.tracking.foreign import DecaEncoder


def add_avatar(parser: argparse.ArgumentParser) -> None:
    """The avatar as the first argument."""
    parser.add_argument("avatar", type=Path, help="Folder or file made by `rome avatar create`.")


def add_deca(parser: argparse.ArgumentParser, what: str) -> None:
    """DECA's checkpoint as an option.

    Args:
        parser: gets the option.
        what: is tracked with it, for the help.
    """
    parser.add_argument(
        "--deca",
        type=Path,
        metavar="FILE",
        help=f"Your deca_model.tar: DECA's encoder tracks {what} in place of our fit; for FLAME heads.",
    )


def read_encoder(path: Path | None) -> DecaEncoder | None:
    """The encoder of ``--deca``."""
    from rome_lightning.tracking.foreign import DecaEncoder

    return None if path is None else DecaEncoder.load(path)


def count(text: str) -> int:
    """Parse a number of steps, pixels or frames; an argparse type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def shares(text: str) -> tuple[float, ...]:
    """Numbers between 0 and 1 with commas between them, as argparse wants its types."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"wanted shares between 0 and 1, such as 0.5,0.25, got {text!r}")
    return numbers


def load_driver(
    avatar: Avatar,
    path: Path,
    max_frames: int | None = None,
    fps: float | None = None,
    encoder: DecaEncoder | None = None,
) -> Driver:
    """Read the driver of an avatar (see ``read_driver``) and show progress on the terminal."""
    from rome_lightning.avatar.driver import read_driver

    with following(f"tracking {path}") as progress:
        return read_driver(path, avatar, max_frames, fps, progress, encoder=encoder)


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """How long a camera is recorded."""
    parser.add_argument(
        "--seconds", type=float, help="Record a camera for this time (default: until Ctrl-C)."
    )


@contextmanager
def recorded(source: Path, seconds: float | None, max_frames: int | None) -> Iterator[Path]:
    """A driver as a file: a camera is recorded, anything else is one.

    The recording is removed after the block.

    Raises:
        FileNotFoundError: there is no such camera, or this user may not read it.
        ValueError: the camera gives no picture, or a time is given for something else.
    """
    from rome_lightning.media.camera import parse_camera, record_camera, until_interrupted

    camera = parse_camera(str(source))
    if seconds is not None and camera is None:
        raise ValueError(f"--seconds is for cameras; limit {source} with --max-frames")
    if seconds is not None and seconds <= 0:
        raise ValueError(f"--seconds must be above 0, got {seconds:g}")
    if camera is None:
        yield source
        return
    with TemporaryDirectory(prefix="rome_camera_") as folder:
        path = Path(folder) / "camera.mp4"
        print(printable(f"recording {source}; Ctrl-C ends it"), file=sys.stderr, flush=True)
        with until_interrupted() as is_stopped:
            record_camera(camera, path, seconds, max_frames, is_stopped)
        yield path


@contextmanager
def following(description: str) -> Iterator[Progress]:
    """Show a line per tracker stage on the terminal, with the time left.

    Yields:
        A thread-safe function of (stage, done, total).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left:"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {"": bars.add_task(printable(description), total=None)}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report
