"""``rome avatar create | animate | export | view``: from a photograph to videos, meshes and a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

AVATAR_FILE = "avatar.safetensors"
DEMO_CHECKPOINT = Path("runs/demo/checkpoints/last.ckpt")
PHOTO_SIZE = 512
"""Least side of the crop that an avatar keeps of its photograph, pixels."""


def build_parser() -> argparse.ArgumentParser:
    """Options of the sub-commands."""
    parser = argparse.ArgumentParser(prog="rome avatar", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    create = commands.add_parser("create", help="Make an avatar from one photograph of a face.")
    create.add_argument("photo", type=Path, help="Image file with one face, hair and shoulders visible.")
    create.add_argument("-o", "--output", type=Path, required=True, help="Folder for the avatar.")
    create.add_argument(
        "--checkpoint",
        type=Path,
        default=DEMO_CHECKPOINT,
        help=f"Model trained by `rome fit` (default: the demo's, {DEMO_CHECKPOINT}).",
    )
    create.add_argument(
        "--refine-steps",
        type=_count,
        default=100,
        help="Steps that fit hair and shoulders to the photo's outline (default: 100; 0: the network's own).",
    )
    create.add_argument("--image-size", type=_count, help="Side of the images, pixels (default: as trained).")

    animate = commands.add_parser("animate", help="Drive an avatar with a video.")
    animate.add_argument("avatar", type=Path, help="Folder or file made by `rome avatar create`.")
    animate.add_argument("--driver", type=Path, required=True, help="Video of a talking person.")
    animate.add_argument("-o", "--output", type=Path, required=True, help="Video to write (.mp4).")
    animate.add_argument("--max-frames", type=_count, help="Stop after so many frames of the driver.")
    animate.add_argument(
        "--compare", action="store_true", help="Show the driver, the avatar and its mesh side by side."
    )

    export = commands.add_parser("export", help="Write the avatar's mesh for other tools.")
    export.add_argument("avatar", type=Path, help="Folder or file made by `rome avatar create`.")
    export.add_argument("--format", choices=("glb", "obj"), default="glb", help="File format.")
    export.add_argument("-o", "--output", type=Path, help="File to write (default: beside the avatar).")

    view = commands.add_parser(
        "view", help="Show the exported mesh and the neural render in a browser, with sliders for both."
    )
    view.add_argument("avatar", type=Path, help="Folder or file made by `rome avatar create`.")
    view.add_argument(
        "--port", type=_count, default=8420, help="Port on this machine (default: 8420; 0: any free one)."
    )
    view.add_argument(
        "--screenshot", type=Path, help="Write a picture (.png) of the page by a headless Chromium and end."
    )
    view.add_argument(
        "--state",
        default="",
        metavar="NAME=VALUE&...",
        help="Where the sliders stand at first: expressions (jawOpen=0.8), joints (neck.y=0.4), "
        "turn=YAW,PITCH in degrees, look=texture|lit|grey|normals|uv|wire.",
    )
    return parser


def _count(text: str) -> int:
    """A number of steps, pixels or frames, as argparse wants its types."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a whole number, 0 or more, got {text!r}")
    return int(text)


def main(argv: list[str]) -> int:
    """Run a sub-command; ``argv`` is what follows ``rome avatar``."""
    args = build_parser().parse_args(argv)
    return {"create": _create, "animate": _animate, "export": _export, "view": _view}[args.command](args)


def avatar_path(given: Path) -> Path:
    """The avatar file of a folder, or the file itself."""
    return given / AVATAR_FILE if given.is_dir() or not given.suffix else given


def _create(args: argparse.Namespace) -> int:
    from PIL import Image

    from rome_lightning.avatar import Avatar
    from rome_lightning.evaluation.pictures import preview, to_uint8
    from rome_lightning.models.checkpoint import load_full_avatar, read_checkpoint
    from rome_lightning.tracking import Tracker, read_image

    if args.checkpoint == DEMO_CHECKPOINT and not DEMO_CHECKPOINT.is_file():
        raise FileNotFoundError(
            f"no model at {DEMO_CHECKPOINT}: train one with `make demo`, or give yours with --checkpoint"
        )
    photo = read_image(args.photo)
    model = load_full_avatar(args.checkpoint)
    image_size = args.image_size or read_checkpoint(args.checkpoint)["image_size"]
    # Sharper than the model needs: the exported texture is taken from it.
    tracked = Tracker(model.head, image_size=max(image_size, PHOTO_SIZE)).track(photo[None])
    if not bool(tracked.valid.all()):
        raise ValueError(f"{args.photo} cannot be used: {tracked.reasons[0]}; take another photo")
    avatar = Avatar.create(model, tracked.to_frames(), image_size, args.refine_steps)
    path = args.output / AVATAR_FILE
    avatar.save(path)
    Image.fromarray(to_uint8(preview(avatar))).save(args.output / "preview.png")
    print(f"{path}: avatar of {args.photo}; look at {args.output / 'preview.png'}")
    return 0


def _animate(args: argparse.Namespace) -> int:
    import torch

    from rome_lightning.avatar import Avatar
    from rome_lightning.evaluation.pictures import driven_frames
    from rome_lightning.tracking import Tracker, read_video, write_video

    avatar = Avatar.load(avatar_path(args.avatar))
    video = read_video(args.driver, max_frames=args.max_frames)
    print(f"tracking {len(video)} frames of {args.driver}", file=sys.stderr)
    tracker = Tracker(avatar.model.head, image_size=avatar.image_size[0])
    tracked = tracker.track(video.frames, fps=video.fps, masks=False)
    if not bool(torch.as_tensor(tracked.valid).all()):
        held = int((~torch.as_tensor(tracked.valid)).sum())
        print(f"{held} of {len(video)} frames have no usable face: the pose before is held", file=sys.stderr)
    write_video(
        args.output,
        _progress(driven_frames(avatar, tracked.to_frames(), args.compare), len(video)),
        video.fps,
    )
    print(f"{args.output}: {len(video)} frames")
    return 0


def _export(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.export.person import export_avatar

    path = avatar_path(args.avatar)
    if args.output is not None and args.output.suffix.lower() != f".{args.format}":
        raise ValueError(f"--format {args.format} writes a .{args.format} file, got --output {args.output}")
    avatar = Avatar.load(path)
    output = args.output or path.with_name(f"avatar.{args.format}")
    export_avatar(avatar, output, args.format)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return 0


def _view(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.viewer import ViewerServer, ViewerSession
    from rome_lightning.viewer.browser import find_browser, take_screenshot

    if args.screenshot is not None:
        find_browser()
    path = avatar_path(args.avatar)
    session = ViewerSession(Avatar.load(path), path.parent.resolve().name)
    with ViewerServer(session, 0 if args.screenshot is not None else args.port) as server:
        address = server.url + (f"#{args.state}" if args.state else "")
        if args.screenshot is not None:
            take_screenshot(server.url, args.screenshot, args.state)
            print(f"{args.screenshot}: {address}")
            return 0
        print(f"{address}  (open it in a browser; Ctrl-C ends it)", flush=True)
        server.wait()
    return 0


def _progress(frames: Iterator, total: int) -> Iterator:
    """Show how many frames are drawn."""
    from rich.progress import track

    yield from track(frames, description="rendering", total=total)
