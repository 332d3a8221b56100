"""``rome avatar animate`` and ``track``: from drivers to videos, images and recorded motion."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_common import (
    add_deca,
    add_seconds,
    count,
    following,
    load_driver,
    read_encoder,
    recorded,
)
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
        help="Drive avatars with a video, photographs or recorded motion.",
        description="Drive one or several avatars. A video is tracked as a whole and smoothed over time; its "
        "frames are read, drawn and written one after the other, so videos may be long.",
    )
    animate.add_argument(
        "avatar",
        type=Path,
        nargs="+",
        help="Folder or file made by `rome avatar create`; with several, the driver is tracked once.",
    )
    animate.add_argument(
        "--driver",
        type=Path,
        required=True,
        help="Video of a talking person; a photograph; a folder of photographs; motion as .csv (ARKit's, of "
        "Live Link Face) or .npz (`rome avatar track`, `export --format params`); a camera, as camera:0 or "
        "/dev/video0, which is recorded first.",
    )
    add_seconds(animate)
    animate.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="Video to write (.mp4; .webm and .mov can be transparent), with the driver's sound, a .png of "
        "the first frame, or a folder for one .png per frame. A .json beside it lists the lost frames. "
        "Of several avatars each has an output of its own, with its name at the end: OUT_NAME.mp4.",
    )
    animate.add_argument(
        "--grid",
        action="store_true",
        help="Show all avatars side by side in one output; --compare puts the driver before them.",
    )
    animate.add_argument("--max-frames", type=count, help="Stop after this many frames of the driver.")
    animate.add_argument(
        "--fps", type=float, help="Frames per second of a folder of photographs (default: 25)."
    )
    animate.add_argument(
        "--lost",
        choices=("hold", "interpolate", "skip"),
        default="hold",
        help="What to do in frames where the driver's face is not found or not trusted: hold the last pose "
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
        help="Background of the avatar: white (default), the photo's own, transparent, a colour or an "
        "image file.",
    )
    animate.add_argument(
        "--paste-back",
        type=Path,
        metavar="PHOTO",
        help="Show the whole photograph that the avatar was made from, with the head moving in it; the "
        "motion is relative.",
    )
    animate.add_argument(
        "--size", type=count, help="Side of the frames, pixels (default: that of the avatar's photo)."
    )
    animate.add_argument(
        "--draw",
        choices=("neural", "fast", "mesh"),
        default="neural",
        help="neural: the networks' render (default); fast: the same without the image network's "
        "corrections, in less than half the time; mesh: the textured mesh, as `export` writes it.",
    )
    add_deca(animate, "the driver")


def add_track(commands: argparse._SubParsersAction) -> None:
    """Options of ``rome avatar track``."""
    track = commands.add_parser(
        "track",
        help="Record a video's motion to a file that drives avatars.",
        description="Track a video and write its motion: .csv as Live Link Face does (ARKit's expressions, "
        "head and eyes), or .npz with everything, framing included.",
    )
    track.add_argument(
        "video", type=Path, help="Video of a talking person; or a camera, as camera:0 or /dev/video0."
    )
    add_seconds(track)
    track.add_argument("-o", "--output", type=Path, required=True, help="motion.csv or motion.npz.")
    track.add_argument("--max-frames", type=count, help="Stop after this many frames.")
    track.add_argument(
        "--head", default="open", help="Head model: open (default), or your FLAME generic_model.pkl."
    )
    add_deca(track, "the video")


def track(args: argparse.Namespace) -> int:
    """Run ``rome avatar track``."""
    from rome_lightning.avatar.driver import track_video
    from rome_lightning.avatar.recorded import MOTION_SUFFIXES, check_motion_file, write_motion
    from rome_lightning.head import load_head

    if args.output.suffix.lower() not in MOTION_SUFFIXES:
        raise ValueError(f"--output must be a .csv or .npz file, got {args.output}")
    head = load_head(args.head)
    # Before minutes of tracking.
    check_motion_file(args.output, head)
    encoder = read_encoder(args.deca)
    with (
        recorded(args.video, args.seconds, args.max_frames) as video,
        following(f"tracking {args.video}") as progress,
    ):
        driver = track_video(video, head, TRACKED_SIZE, args.max_frames, progress, encoder=encoder)
    write_motion(driver.motion(), args.output, head)
    lost = int(driver.lost.sum())
    print(printable(f"{args.output}: {len(driver) - lost} of {len(driver)} frames of {args.video}"))
    return 0


def animate(args: argparse.Namespace) -> int:
    """Run ``rome avatar animate``."""
    from rome_lightning.avatar import Avatar

    _check(args)
    first = Avatar.load(args.avatar[0])
    encoder = read_encoder(args.deca)
    with recorded(args.driver, args.seconds, args.max_frames) as path:
        _drive(args, first, load_driver(first, path, args.max_frames, args.fps, encoder))
    return 0


def _drive(args: argparse.Namespace, first: Avatar, driver: Driver) -> None:
    """Write the outputs of all avatars."""
    from rome_lightning.avatar import Avatar
    from rome_lightning.models.basis import mesh_fingerprint

    # Loaded one after another, so that only one is in memory.
    rest = (Avatar.load(path) for path in args.avatar[1:])
    if args.compare and driver.crops is None:
        raise ValueError(f"--compare shows the driver's frames, but {args.driver} has none")

    def of_one_head(avatar: Avatar, path: Path) -> Avatar:
        if mesh_fingerprint(avatar.model.head) != mesh_fingerprint(first.model.head):
            raise ValueError(f"{path} has another head model than {args.avatar[0]}; animate it on its own")
        return avatar

    avatars = (of_one_head(*each) for each in zip(chain([first], rest), args.avatar, strict=True))
    names = _names(args.avatar)
    if args.grid:
        _animate(args, list(avatars), driver, args.output, names)
        return
    for avatar, name in zip(avatars, names, strict=True):
        output = args.output
        if len(names) > 1:
            output = (
                output.with_name(f"{output.stem}_{name}{output.suffix}") if output.suffix else output / name
            )
        _animate(args, [avatar], driver, output, [name])


def _names(paths: list[Path]) -> list[str]:
    """Names of avatars, from their folder or file; numbers distinguish equal ones."""
    from rome_lightning.avatar.file import AVATAR_FILE

    plain = [(path.resolve().parent if path.name == AVATAR_FILE else path.resolve()).stem for path in paths]
    return [
        name if plain.count(name) == 1 else f"{name}_{plain[: index + 1].count(name)}"
        for index, name in enumerate(plain)
    ]


def _animate(
    args: argparse.Namespace, avatars: list[Avatar], driver: Driver, output: Path, names: list[str]
) -> None:
    """Write one output: of one avatar, or of several side by side."""
    from rome_lightning.avatar.motion import runs

    relative = args.relative or args.paste_back is not None
    poses, shown = [], driver.lost.nonzero().flatten()
    for avatar in avatars:
        own = avatar.source.params if relative else None
        params, shown = driver.framed_for(avatar).shown(args.lost, own)
        poses.append(params)
    if output.suffix.lower() == ".png":
        poses, shown = [params[slice(0, 1)] for params in poses], shown[:1]
    if args.grid:
        pictures = _side_by_side(avatars, args, driver, poses, shown)
    else:
        pictures = _pictures(avatars[0], args, driver, poses[0], shown)
    silent = _write(output, driver, pictures, shown, f"rendering {', '.join(names)}")
    spans = runs(driver.lost.nonzero().flatten())
    record = {
        "driver": str(args.driver),
        "avatars": names,
        "driver_frames": len(driver),
        "lost_frames": spans,
        "lost": args.lost,
        "relative": relative,
        "frames": len(shown),
        "fps": driver.fps,
        "timestamps_s": [round(float(time), 6) for time in driver.times[shown.numpy()]],
        "sound": silent or "as in the driver",
    }
    write_atomic(output.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    if spans:
        where = ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)
        print(
            f"lost {int(driver.lost.sum())} of {len(driver)} frames ({args.lost}): {where}", file=sys.stderr
        )
    print(f"{output}: {len(shown)} frames")


def _check(args: argparse.Namespace) -> None:
    """Refuse conflicting options before anything is read."""
    from rome_lightning.media.codecs import FORMATS, format_of

    suffix, transparent = args.output.suffix.lower(), args.background == "transparent"
    if suffix not in ("", ".png", *FORMATS):
        raise ValueError(
            f"--output is a {', '.join(FORMATS)} or .png file or a folder without a suffix, got {args.output}"
        )
    if suffix in FORMATS:
        format_of(args.output, transparent)
    if args.compare and not args.grid and (args.background != "white" or args.size or args.draw != "neural"):
        raise ValueError("--compare has its own layout; omit --background, --size and --draw")
    if args.paste_back and (args.background != "white" or args.size or args.compare or args.grid):
        raise ValueError(
            "--paste-back shows the photograph as it is; omit --background, --size, --compare and --grid"
        )
    if args.paste_back and len(args.avatar) > 1:
        raise ValueError("--paste-back takes the photograph of one avatar; animate one at a time")
    if args.size is not None and args.size < 32:
        raise ValueError(f"--size must be at least 32 pixels, got {args.size}")
    if args.fps is not None and args.fps <= 0:
        raise ValueError(f"--fps must be positive, got {args.fps}")


def _pictures(
    avatar: Avatar, args: argparse.Namespace, driver: Driver, params: HeadParams, shown: torch.Tensor
) -> Iterator[np.ndarray]:
    """The frames of one avatar."""
    if args.compare:
        return _compared(avatar, params, driver, shown)
    size = (args.size, args.size) if args.size else avatar.image_size
    if not args.paste_back:
        return _drawn(avatar, args, params, size)
    from rome_lightning.media.pictures import read_image
    from rome_lightning.report.pasting import photo_pasting

    paste = photo_pasting(avatar, read_image(args.paste_back))
    layers = _draw_by(args.draw)(avatar, params, size)
    return (paste(*each) for rgb, mask in layers for each in zip(rgb, mask, strict=True))


def _drawn(
    avatar: Avatar, args: argparse.Namespace, params: HeadParams, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """An avatar on the background that is asked for."""
    from rome_lightning.report.backgrounds import composed, read_background

    background = read_background(args.background, avatar, size)
    layers = _draw_by(args.draw)(avatar, params, size)
    return (frame for rgb, mask in layers for frame in composed(rgb, mask, background))


def _draw_by(name: str) -> Callable[..., Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    from rome_lightning.export.mesh_picture import draw_mesh
    from rome_lightning.report.backgrounds import draw_layers

    return draw_mesh if name == "mesh" else partial(draw_layers, corrections=name != "fast")


def _side_by_side(
    avatars: list[Avatar],
    args: argparse.Namespace,
    driver: Driver,
    poses: list[HeadParams],
    shown: torch.Tensor,
) -> Iterator[np.ndarray]:
    """All avatars of each frame, and with ``--compare`` the driver before them."""
    import numpy as np

    from rome_lightning.report.grid import grid

    side = args.size or max(avatar.image_size[0] for avatar in avatars)
    cells = [
        _drawn(avatar, args, params, (side, side)) for avatar, params in zip(avatars, poses, strict=True)
    ]
    if args.compare:
        assert driver.crops is not None
        frames = zip(driver.crops(shown, side), driver.lost[shown].tolist(), strict=True)
        first = (_bordered(np.array(frame)) if lost else frame for frame, lost in frames)
        if args.background == "transparent":
            first = (np.pad(frame, ((0, 0), (0, 0), (0, 1)), constant_values=255) for frame in first)
        cells.insert(0, first)
    return (grid(pictures) for pictures in zip(*cells, strict=True))


def _compared(
    avatar: Avatar, params: HeadParams, driver: Driver, shown: torch.Tensor
) -> Iterator[np.ndarray]:
    """Driver, avatar and mesh; a red border shows where the driver is lost."""
    import torch

    from rome_lightning.report.pictures import driven_frames

    assert driver.crops is not None
    crops = driver.crops(shown, avatar.image_size[0])
    images = (torch.from_numpy(crop).permute(2, 0, 1) / 255 for crop in crops)
    frames = driven_frames(avatar, params, images)
    for frame, is_lost in zip(frames, driver.lost[shown].tolist(), strict=True):
        yield _bordered(frame) if is_lost else frame


def _bordered(frame: np.ndarray) -> np.ndarray:
    """The same picture with a red border."""
    width = max(2, frame.shape[0] // 64)
    for side in (frame[:width], frame[-width:], frame[:, :width], frame[:, -width:]):
        side[:] = (220, 30, 30)
    return frame


def _write(
    output: Path, driver: Driver, frames: Iterator[np.ndarray], shown: torch.Tensor, doing: str
) -> str:
    """A video with the driver's sound, or pictures; returns why it is silent, and warns of lost sound."""
    from rome_lightning.avatar.driver import NO_VIDEO
    from rome_lightning.media.audio import NO_SOUND
    from rome_lightning.media.image import write_png

    frames = iter(counted(frames, doing, len(shown)))
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
    return "images have no sound"
