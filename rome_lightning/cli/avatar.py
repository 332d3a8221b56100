"""``rome avatar create | animate | edit | export | view``: photographs to videos, meshes and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_common import AVATAR_FILE, add_avatar, avatar_path, count, track_driver
from rome_lightning.cli.avatar_export import add_export, export
from rome_lightning.cli.parsing import StrictParser
from rome_lightning.cli.progress import counted, shown
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.escaping import printable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from rome_lightning.avatar import Avatar
    from rome_lightning.media.video import Video
    from rome_lightning.tracking import TrackedClip
    from rome_lightning.types import Frames, HeadParams

PHOTO_SIZE = 512
"""Side of the crop that an avatar keeps of its photographs, pixels."""
SAME_PERSON = 0.363
"""SFace cosine above which two faces are taken for one person's; the value of OpenCV's example."""


def build_parser() -> StrictParser:
    """Options of the sub-commands."""
    parser = StrictParser(prog="rome avatar", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_create(commands)
    _add_animate(commands)
    _add_edit(commands)
    add_export(commands)
    _add_view(commands)
    return parser


def _add_create(commands: argparse._SubParsersAction) -> None:
    create = commands.add_parser(
        "create",
        help="Create an avatar from one or several photographs of a person.",
        description="Create an avatar. Several photographs of one person, from different sides, show "
        "more of head and hair than one. Give the best one first: it sets expression and lighting.",
    )
    create.add_argument(
        "photos",
        type=Path,
        nargs="+",
        metavar="PHOTO",
        help="Image file of a person, hair and shoulders visible.",
    )
    create.add_argument("-o", "--output", type=Path, required=True, help="Folder for the avatar.")
    create.add_argument(
        "--checkpoint",
        help="Name of a shipped model (`rome models list`), or a file made by `rome fit` (default: the "
        "shipped model).",
    )
    create.add_argument(
        "--refine-steps",
        type=count,
        default=60,
        help="Steps that fit hair and shoulders to the outlines (default: 60; 0: keep what the network "
        "predicts).",
    )
    create.add_argument(
        "--face",
        type=_person,
        metavar="N",
        help="Which person to use if a photo shows several, counted from the left, from 1 (default: the "
        "largest face).",
    )
    create.add_argument(
        "--image-size",
        type=count,
        help="Side of the images that the networks see, pixels (default: as trained).",
    )
    create.add_argument(
        "--photo-size",
        type=count,
        default=PHOTO_SIZE,
        help=f"Side of the crop that the avatar keeps of its photographs and is drawn at, pixels (default: "
        f"{PHOTO_SIZE}; 1024 for large photographs).",
    )


def _add_animate(commands: argparse._SubParsersAction) -> None:
    animate = commands.add_parser(
        "animate",
        help="Drive an avatar with a video.",
        description="Drive an avatar with a video. The driver is tracked as a whole, smoothed over time "
        "and kept in memory: about 4 GB per minute of 720p at 25 frames/s. For longer videos use "
        "--max-frames, cut the video, or use `rome live`, which keeps no frames.",
    )
    add_avatar(animate)
    animate.add_argument("--driver", type=Path, required=True, help="Video of a talking person.")
    animate.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="Video to write (.mp4, with the driver's sound), or a folder for one .png per frame. A "
        ".json beside it lists the driver's lost frames.",
    )
    animate.add_argument("--max-frames", type=count, help="Stop after this many frames of the driver.")
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


def _add_edit(commands: argparse._SubParsersAction) -> None:
    edit = commands.add_parser("edit", help="Change an avatar's hair or shoulders along a linear basis.")
    add_avatar(edit)
    edit.add_argument("--basis", type=Path, required=True, help="Basis written by `rome distill basis`.")
    edit.add_argument(
        "--component",
        type=count,
        action="append",
        required=True,
        help="Component to change, from 1; may be given several times, each with its --amount.",
    )
    edit.add_argument(
        "--amount",
        type=float,
        action="append",
        required=True,
        help="Standard deviations to add, such as 2 or -1.5.",
    )
    edit.add_argument("-o", "--output", type=Path, required=True, help="Folder for the edited avatar.")


def _add_view(commands: argparse._SubParsersAction) -> None:
    view = commands.add_parser(
        "view", help="Show the exported mesh and the neural render in a browser, with sliders for both."
    )
    add_avatar(view)
    view.add_argument(
        "--port", type=count, default=8420, help="Port on this machine (default: 8420; 0: any free one)."
    )
    view.add_argument(
        "--basis", type=Path, help="Basis written by `rome distill basis`: sliders for hair and shoulders."
    )
    view.add_argument(
        "--screenshot",
        type=Path,
        help="Write a screenshot (.png) of the page with a headless Chromium and exit.",
    )
    view.add_argument(
        "--state",
        default="",
        metavar="NAME=VALUE&...",
        help="Initial state of the sliders: expressions (jawOpen=0.8), joints (neck.y=0.4), "
        "component.1=2, turn=YAW,PITCH in degrees, look=texture|lit|grey|normals|uv|wire.",
    )


def _person(text: str) -> int:
    """Number of a person in a photo."""
    number = count(text)
    if number == 0:
        raise argparse.ArgumentTypeError("people are counted from 1")
    return number


def main(argv: list[str]) -> int:
    """Run a sub-command; ``argv`` is what follows ``rome avatar``."""
    args = build_parser().parse_args(argv)
    commands = {"create": _create, "animate": _animate, "edit": _edit, "export": export, "view": _view}
    return commands[args.command](args)


def _create(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.media.pictures import read_image
    from rome_lightning.models.shipped import open_model
    from rome_lightning.tracking import Tracker, track_photos
    from rome_lightning.tracking.crop import FFHQ_RULE

    photos = [read_image(path) for path in args.photos]
    with shown("reading the model"):
        model = open_model(args.checkpoint)
    image_size = args.image_size or model.image_size
    # Sharper than the networks need: the picture and the exported texture are taken from it.
    size = max(image_size, args.photo_size)
    released = model.config.decoder.interpolation == "release"
    tracker = Tracker(model.head, image_size=size, crop_rule=FFHQ_RULE if released else None)
    paths = [str(path) for path in args.photos]
    with shown(f"tracking {len(photos)} photograph{'s' * (len(photos) > 1)}"):
        frames = track_photos(
            tracker, photos, paths, args.face, lambda text: print(f"warning: {text}", file=sys.stderr)
        )
    _warn_of_others(frames, args.photos)
    with shown("fitting the outline", args.refine_steps) as done:
        avatar = Avatar.create(model, frames, image_size, args.refine_steps, done)
    with shown("drawing the preview"):
        path = _save(avatar, args.output)
    names = ", ".join(map(str, args.photos))
    print(printable(f"{path}: avatar of {names}; look at {args.output / 'preview.png'}"))
    return 0


def _save(avatar: Avatar, folder: Path) -> Path:
    """The avatar and a picture of it."""
    from rome_lightning.media.image import to_uint8, write_png
    from rome_lightning.report.pictures import preview

    avatar.save(folder / AVATAR_FILE)
    write_png(folder / "preview.png", to_uint8(preview(avatar)))
    return folder / AVATAR_FILE


def _warn_of_others(frames: Frames, paths: list[Path]) -> None:
    """Say which photographs seem to show somebody else than the first."""
    if len(frames) == 1:
        return
    from rome_lightning import assets
    from rome_lightning.metrics import SFaceEmbedder, csim

    try:
        networks = assets.resolve("yunet"), assets.resolve("sface")
    except OSError as error:
        print(f"cannot check that all photos show one person: {error}", file=sys.stderr)
        return
    embeddings, found = SFaceEmbedder(*networks)(frames.image)
    similar = csim(embeddings, embeddings[:1].expand_as(embeddings))
    for index, path in enumerate(paths[1:], start=1):
        if bool(found[0] & found[index]) and float(similar[index]) < SAME_PERSON:
            print(
                f"warning: {path} may show another person than {paths[0]} (similarity "
                f"{float(similar[index]):.2f}, one person's photos usually have more than {SAME_PERSON})",
                file=sys.stderr,
            )


def _animate(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.motion import fill_lost, relative_motion, runs

    if args.output.suffix.lower() not in ("", ".mp4"):
        raise ValueError(f"--output is a .mp4 file or a folder without a suffix, got {args.output}")
    avatar = Avatar.load(avatar_path(args.avatar))
    video, tracked = track_driver(avatar, args.driver, args.max_frames)
    lost = ~tracked.valid
    params, kept = fill_lost(tracked.params, lost, args.lost)
    if args.relative:
        first = (~lost).nonzero()[0]
        params = relative_motion(params, tracked.params[first], avatar.source.params)
    frames = _with_params(tracked, kept, params)
    times = video.timestamps[kept.numpy()]
    _write(args.output, _drawn(avatar, frames, lost[kept], args.compare), times, video.fps)
    silent = _add_sound(args.output, args.driver, video, float(times[0]))
    spans = runs(lost.nonzero().flatten())
    record = {
        "driver": str(args.driver),
        "driver_frames": len(video),
        "lost_frames": spans,
        "lost": args.lost,
        "relative": args.relative,
        "frames": len(frames),
        "fps": video.fps,
        "timestamps_s": [round(float(time), 6) for time in times],
        "sound": silent or "as in the driver",
    }
    write_atomic(args.output.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    if spans:
        where = ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)
        print(f"lost {int(lost.sum())} of {len(video)} frames ({args.lost}): {where}", file=sys.stderr)
    print(f"{args.output}: {len(frames)} frames")
    return 0


def _add_sound(output: Path, driver: Path, video: Video, start_s: float) -> str:
    """Give a video the driver's sound; returns why it has none, and says so where there was one."""
    if not output.suffix:
        return "pictures have no sound"
    from rome_lightning.media.audio import NO_SOUND, copy_audio

    lost = copy_audio(output, driver, [offset - start_s for offset in video.clock_offsets])
    if lost and lost != NO_SOUND:
        print(f"warning: {output} is silent: {lost}", file=sys.stderr)
    return lost


def _with_params(tracked: TrackedClip, kept: torch.Tensor, params: HeadParams) -> Frames:
    """The driver's frames that are kept, with the parameters that they are drawn with."""
    import dataclasses

    return dataclasses.replace(tracked.to_frames()[kept], params=params)


def _drawn(avatar: Avatar, frames: Frames, lost: torch.Tensor, compare: bool) -> Iterator[np.ndarray]:
    """The frames to write; in a comparison a red border shows where the driver is lost."""
    from rome_lightning.report.pictures import driven_frames

    for frame, is_lost in zip(driven_frames(avatar, frames, compare), lost.tolist(), strict=True):
        if compare and is_lost:
            width = max(2, frame.shape[0] // 64)
            for side in (frame[:width], frame[-width:], frame[:, :width], frame[:, -width:]):
                side[:] = (220, 30, 30)
        yield frame


def _write(output: Path, frames: Iterator[np.ndarray], times: np.ndarray, fps: float) -> None:
    """A video whose frames are shown when the driver's are, or a folder of pictures."""
    from rome_lightning.media.image import write_png
    from rome_lightning.media.video import write_video

    frames = counted(frames, "rendering", len(times))
    if output.suffix:
        write_video(output, frames, fps, timestamps=times)
        return
    for index, frame in enumerate(frames):
        write_png(output / f"{index:05d}.png", frame)


def _edit(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.models import LinearBasis

    if len(args.component) != len(args.amount):
        raise ValueError(
            f"every --component needs its --amount, got {len(args.component)} and {len(args.amount)}"
        )
    if 0 in args.component:
        raise ValueError("components are counted from 1, got --component 0")
    avatar, basis = Avatar.load(avatar_path(args.avatar)), LinearBasis.load(args.basis)
    amounts: dict[int, float] = {}
    for component, amount in zip(args.component, args.amount, strict=True):
        amounts[component - 1] = amounts.get(component - 1, 0.0) + amount
    edited = avatar.edited(basis, amounts)
    path = _save(edited, args.output)
    moved = (edited.rest_mesh().vertices - avatar.rest_mesh().vertices).norm(dim=-1)
    changes = ", ".join(f"{basis.names[index]} {amount:+g}" for index, amount in amounts.items())
    print(f"{path}: {changes}; vertices moved by up to {1e3 * float(moved.max()):.1f} mm")
    return 0


def _view(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.models import LinearBasis
    from rome_lightning.viewer import ViewerServer, ViewerSession
    from rome_lightning.viewer.browser import find_browser, take_screenshot
    from rome_lightning.viewer.state import check_state

    if args.screenshot is not None:
        find_browser()
    path = avatar_path(args.avatar)
    basis = None if args.basis is None else LinearBasis.load(args.basis)
    session = ViewerSession(Avatar.load(path), path.parent.resolve().name, basis)
    expressions = session.avatar.model.head.expression_names
    check_state(args.state, expressions, 0 if basis is None else len(basis.names))
    with ViewerServer(session, 0 if args.screenshot is not None else args.port) as server:
        address = server.url + (f"#{args.state}" if args.state else "")
        if args.screenshot is not None:
            take_screenshot(server.url, args.screenshot, args.state)
            print(f"{args.screenshot}: {address}")
            return 0
        print(f"{address}  (open it in a browser; Ctrl-C ends it)", flush=True)
        server.wait()
    return 0
