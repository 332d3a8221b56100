"""``rome avatar animate`` and ``track``: drivers to videos, pictures and recorded motion."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_common import add_avatar, count, following, load_driver
from rome_lightning.cli.progress import counted
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.escaping import printable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.driver import Driver
    from rome_lightning.types import HeadParams

TRACKED_SIZE = 512
"""Side of the crops of `rome avatar track`, pixels."""


def add_animate(commands: argparse._SubParsersAction) -> None:
    """Options of ``rome avatar animate``."""
    animate = commands.add_parser(
        "animate",
        help="Drive an avatar with a video, photographs or recorded motion.",
        description="Drive an avatar. A video is tracked as a whole, smoothed over time "
        "and kept in memory: about 4 GB per minute of 720p at 25 frames/s. For longer videos use "
        "--max-frames, cut the video, or use `rome live`, which keeps no frames.",
    )
    add_avatar(animate)
    animate.add_argument(
        "--driver",
        type=Path,
        required=True,
        help="Video of a talking person; a photograph; a folder of photographs; motion as .csv (ARKit's, of "
        "Live Link Face) or .npz (`rome avatar track`, `export --format params`).",
    )
    animate.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="Video to write (.mp4; .webm and .mov can be transparent), with the driver's sound, a .png of "
        "the first frame, or a folder for one .png per frame. A .json beside it lists the lost frames.",
    )
    animate.add_argument("--max-frames", type=count, help="Stop after this many frames of the driver.")
    animate.add_argument(
        "--fps", type=float, help="Frames per second of a folder of photographs (default: 25)."
    )
    animate.add_argument(
        "--lost",
        choices=("hold", "interpolate", "skip"),
        default="hold",
        help="Frames in which the driver's face is not found or not trusted: hold the last pose "
        "(default), interpolate to the next one, or skip the frame.",
    )
    animate.add_argument(
        "--relative",
        action="store_true",
        help="Transfer the motion relative to the driver's first usable frame, starting from the "
        "avatar's photo, instead of the driver's absolute pose, framing and expression.",
    )
    animate.add_argument(
        "--compare",
        action="store_true",
        help="Show the driver, the avatar and its mesh side by side; lost frames have a red border.",
    )
    animate.add_argument(
        "--background",
        default="white",
        metavar="white|photo|transparent|#rrggbb|FILE",
        help="What is behind the avatar: white (default), the photo's background, nothing, a colour or a "
        "picture.",
    )
    animate.add_argument(
        "--paste-back",
        type=Path,
        metavar="PHOTO",
        help="Show the whole photograph that the avatar was made of, with the head moving in it; the "
        "motion is relative.",
    )
    animate.add_argument(
        "--size", type=count, help="Side of the pictures, pixels (default: that of the avatar's photo)."
    )
    animate.add_argument(
        "--draw",
        choices=("neural", "mesh"),
        default="neural",
        help="neural: the networks' picture (default); mesh: the textured mesh, as `export` writes it.",
    )


def add_track(commands: argparse._SubParsersAction) -> None:
    """Options of ``rome avatar track``."""
    track = commands.add_parser(
        "track",
        help="Record a video's motion as a file that drives avatars.",
        description="Track a video and write its motion: .csv as Live Link Face does (ARKit's expressions, "
        "head and eyes), or .npz with everything, framing included.",
    )
    track.add_argument("video", type=Path, help="Video of a talking person.")
    track.add_argument("-o", "--output", type=Path, required=True, help="motion.csv or motion.npz.")
    track.add_argument("--max-frames", type=count, help="Stop after this many frames.")
    track.add_argument(
        "--head", default="open", help="Head model: open (default), or your FLAME generic_model.pkl."
    )


def track(args: argparse.Namespace) -> int:
    """Run ``rome avatar track``."""
    from rome_lightning.avatar.driver import track_video
    from rome_lightning.avatar.recorded import MOTION_SUFFIXES, write_motion
    from rome_lightning.head import load_head

    if args.output.suffix.lower() not in MOTION_SUFFIXES:
        raise ValueError(f"--output is a .csv or a .npz file, got {args.output}")
    head = load_head(args.head)
    with following(f"tracking {args.video}") as progress:
        driver = track_video(args.video, head, TRACKED_SIZE, args.max_frames, progress)
    write_motion(driver.motion(), args.output, head)
    lost = int(driver.lost.sum())
    print(printable(f"{args.output}: {len(driver) - lost} of {len(driver)} frames of {args.video}"))
    return 0


def animate(args: argparse.Namespace) -> int:
    """Run ``rome avatar animate``."""
    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.motion import runs

    _check(args)
    avatar = Avatar.load(args.avatar)
    driver = load_driver(avatar, args.driver, args.max_frames, args.fps)
    if args.compare and driver.images is None:
        raise ValueError(f"--compare shows the driver's frames, and {args.driver} has none")
    lost, relative = driver.lost, args.relative or args.paste_back is not None
    params, shown = driver.shown(args.lost, avatar.source.params if relative else None)
    if args.output.suffix.lower() == ".png":
        params, shown = params[slice(0, 1)], shown[:1]
    silent = _write(args.output, driver, _pictures(avatar, args, driver, params, shown), shown)
    spans = runs(lost.nonzero().flatten())
    record = {
        "driver": str(args.driver),
        "driver_frames": len(driver),
        "lost_frames": spans,
        "lost": args.lost,
        "relative": relative,
        "frames": len(params),
        "fps": driver.fps,
        "timestamps_s": [round(float(time), 6) for time in driver.times[shown.numpy()]],
        "sound": silent or "as in the driver",
    }
    write_atomic(args.output.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    if spans:
        where = ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)
        print(f"lost {int(lost.sum())} of {len(driver)} frames ({args.lost}): {where}", file=sys.stderr)
    print(f"{args.output}: {len(params)} frames")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not fit each other, before anything is read."""
    from rome_lightning.media.codecs import FORMATS, format_of

    suffix, transparent = args.output.suffix.lower(), args.background == "transparent"
    if suffix not in ("", ".png", *FORMATS):
        raise ValueError(
            f"--output is a {', '.join(FORMATS)} or .png file or a folder without a suffix, got {args.output}"
        )
    if suffix in FORMATS:
        format_of(args.output, transparent)
    if args.compare and (args.background != "white" or args.size or args.draw != "neural"):
        raise ValueError("--compare has its own pictures; leave out --background, --size and --draw")
    if args.paste_back and (args.background != "white" or args.size or args.compare):
        raise ValueError(
            "--paste-back shows the photograph as it is; leave out --background, --size and --compare"
        )
    if args.size is not None and args.size < 32:
        raise ValueError(f"--size must be at least 32 pixels, got {args.size}")
    if args.fps is not None and args.fps <= 0:
        raise ValueError(f"--fps must be positive, got {args.fps}")


def _pictures(
    avatar: Avatar, args: argparse.Namespace, driver: Driver, params: HeadParams, shown: torch.Tensor
) -> Iterator[np.ndarray]:
    """The frames to write."""
    if args.compare:
        assert driver.images is not None
        return _compared(avatar, params, driver.images[shown], driver.lost[shown])
    from rome_lightning.export.mesh_picture import draw_mesh
    from rome_lightning.media.pictures import read_image
    from rome_lightning.report.backgrounds import composed, draw_layers, read_background
    from rome_lightning.report.pasting import photo_pasting

    size = (args.size, args.size) if args.size else avatar.image_size
    draw = draw_mesh if args.draw == "mesh" else draw_layers
    if args.paste_back:
        paste = photo_pasting(avatar, read_image(args.paste_back))
        layers = draw(avatar, params, size)
        return (paste(*each) for rgb, mask in layers for each in zip(rgb, mask, strict=True))
    background = read_background(args.background, avatar, size)
    return (frame for rgb, mask in draw(avatar, params, size) for frame in composed(rgb, mask, background))


def _compared(
    avatar: Avatar, params: HeadParams, images: torch.Tensor, lost: torch.Tensor
) -> Iterator[np.ndarray]:
    """Driver, avatar and mesh; a red border shows where the driver is lost."""
    from rome_lightning.report.pictures import driven_frames

    for frame, is_lost in zip(driven_frames(avatar, params, images), lost.tolist(), strict=True):
        if is_lost:
            width = max(2, frame.shape[0] // 64)
            for side in (frame[:width], frame[-width:], frame[:, :width], frame[:, -width:]):
                side[:] = (220, 30, 30)
        yield frame


def _write(output: Path, driver: Driver, frames: Iterator[np.ndarray], shown: torch.Tensor) -> str:
    """A video with the driver's sound, or pictures; returns why it is silent, and warns of lost sound."""
    from rome_lightning.avatar.driver import NO_VIDEO
    from rome_lightning.media.audio import NO_SOUND
    from rome_lightning.media.image import write_png

    frames = iter(counted(frames, "rendering", len(shown)))
    if output.suffix.lower() == ".png":
        write_png(output, next(frames))
    elif output.suffix:
        silent = driver.write(output, frames, shown)
        if silent not in ("", NO_SOUND, NO_VIDEO):
            print(f"warning: {output} is silent: {silent}", file=sys.stderr)
        return silent
    else:
        for index, frame in enumerate(frames):
            write_png(output / f"{index:05d}.png", frame)
    return "pictures have no sound"
