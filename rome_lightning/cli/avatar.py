"""``rome avatar create | animate | edit | export | view``: photographs to videos, meshes and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from rome_lightning.avatar import Avatar
    from rome_lightning.data import Frames, HeadParams
    from rome_lightning.tracking import TrackedClip, Video

AVATAR_FILE = "avatar.safetensors"
DEMO_CHECKPOINT = Path("runs/demo/checkpoints/last.ckpt")
PHOTO_SIZE = 512
"""Least side of the crop that an avatar keeps of its photographs, pixels."""
LARGEST_FRAME = 1280
"""Drivers' frames are reduced to this longer side: more helps nobody and fills the memory."""
SAME_PERSON = 0.363
"""SFace cosine above which two faces are taken for one person's; the value of OpenCV's example."""


def build_parser() -> argparse.ArgumentParser:
    """Options of the sub-commands."""
    parser = argparse.ArgumentParser(prog="rome avatar", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_create(commands)
    _add_animate(commands)
    _add_edit(commands)
    _add_export(commands)
    _add_view(commands)
    return parser


def _add_create(commands: argparse._SubParsersAction) -> None:
    create = commands.add_parser(
        "create",
        help="Make an avatar from one or several photographs of a person.",
        description="Make an avatar. Several photographs of one person, from different sides, show more of "
        "head and hair than one; give the best one first: expression and light are taken from it.",
    )
    create.add_argument(
        "photos",
        type=Path,
        nargs="+",
        metavar="PHOTO",
        help="Image file with one face, hair and shoulders visible.",
    )
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
        help="Steps that fit hair and shoulders to the outlines (default: 100; 0: the network's own).",
    )
    create.add_argument("--image-size", type=_count, help="Side of the images, pixels (default: as trained).")


def _add_animate(commands: argparse._SubParsersAction) -> None:
    animate = commands.add_parser(
        "animate",
        help="Drive an avatar with a video.",
        description="Drive an avatar with a video. The driver is tracked as a whole, smoothed over time and "
        "held in memory meanwhile: some 4 GB per minute of 720p at 25 frames/s. For longer ones use "
        "--max-frames, cut the video, or take `rome live`, which forgets each frame.",
    )
    _add_avatar(animate)
    animate.add_argument("--driver", type=Path, required=True, help="Video of a talking person.")
    animate.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="Video to write (.mp4, with the driver's sound), or a folder for one .png per frame. A .json "
        "beside it says which frames of the driver were lost.",
    )
    animate.add_argument("--max-frames", type=_count, help="Stop after so many frames of the driver.")
    animate.add_argument(
        "--lost",
        choices=("hold", "interpolate", "skip"),
        default="hold",
        help="Frames in which the driver's face is not found or not to be trusted: hold the last pose "
        "(default), interpolate to the next one, or skip the frame.",
    )
    animate.add_argument(
        "--relative",
        action="store_true",
        help="Move as the driver moves away from the first usable frame, starting from the avatar's photo, "
        "instead of taking over the driver's pose, framing and expression.",
    )
    animate.add_argument(
        "--compare",
        action="store_true",
        help="Show the driver, the avatar and its mesh side by side; lost frames have a red border.",
    )


def _add_edit(commands: argparse._SubParsersAction) -> None:
    edit = commands.add_parser("edit", help="Change an avatar's hair or shoulders along a linear basis.")
    _add_avatar(edit)
    edit.add_argument("--basis", type=Path, required=True, help="Basis written by `rome distill basis`.")
    edit.add_argument(
        "--component",
        type=_count,
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


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="Write the avatar for other tools.")
    _add_avatar(export)
    export.add_argument(
        "--format",
        choices=("glb", "obj", "ply", "usd", "params", "flipbook", "smplx"),
        default="glb",
        help="glb, usd: rigged mesh with a morph target per expression; obj: textured mesh; ply: mesh with "
        "coloured vertices; params: numbers of the head model, FLAME's names (.npz); flipbook: the neural "
        "render over a driver's frames in one .png, and a .json; smplx: your SMPL-X body with the avatar's "
        "hair and shoulders (.npz). Default: glb.",
    )
    export.add_argument("-o", "--output", type=Path, help="File to write (default: beside the avatar).")
    export.add_argument(
        "--driver",
        type=Path,
        help="Video whose poses obj, ply and params show (default: at rest); required for flipbook.",
    )
    export.add_argument(
        "--frame",
        type=_count,
        action="append",
        help="Frame of the driver, from 0; may be given several times, one file each (default: the first "
        "for obj and ply, all for params).",
    )
    export.add_argument(
        "--max-frames", type=_count, help="flipbook: stop after so many frames of the driver."
    )
    export.add_argument(
        "--body", type=Path, help="smplx: your SMPLX_NEUTRAL.npz, from https://smpl-x.is.tue.mpg.de."
    )
    export.add_argument(
        "--correspondence", type=Path, help="smplx: your SMPL-X__FLAME_vertex_ids.npy, from the same page."
    )
    export.add_argument(
        "--flame", type=Path, help="smplx: your generic_model.pkl, for an avatar on another head than FLAME."
    )


def _add_view(commands: argparse._SubParsersAction) -> None:
    view = commands.add_parser(
        "view", help="Show the exported mesh and the neural render in a browser, with sliders for both."
    )
    _add_avatar(view)
    view.add_argument(
        "--port", type=_count, default=8420, help="Port on this machine (default: 8420; 0: any free one)."
    )
    view.add_argument(
        "--basis", type=Path, help="Basis written by `rome distill basis`: sliders for hair and shoulders."
    )
    view.add_argument(
        "--screenshot", type=Path, help="Write a picture (.png) of the page by a headless Chromium and end."
    )
    view.add_argument(
        "--state",
        default="",
        metavar="NAME=VALUE&...",
        help="Where the sliders stand at first: expressions (jawOpen=0.8), joints (neck.y=0.4), "
        "component.1=2, turn=YAW,PITCH in degrees, look=texture|lit|grey|normals|uv|wire.",
    )


def _add_avatar(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="Folder or file made by `rome avatar create`.")


def _count(text: str) -> int:
    """A number of steps, pixels or frames, as argparse wants its types."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a whole number, 0 or more, got {text!r}")
    return int(text)


def main(argv: list[str]) -> int:
    """Run a sub-command; ``argv`` is what follows ``rome avatar``."""
    args = build_parser().parse_args(argv)
    commands = {"create": _create, "animate": _animate, "edit": _edit, "export": _export, "view": _view}
    return commands[args.command](args)


def avatar_path(given: Path) -> Path:
    """The avatar file of a folder, or the file itself."""
    return given / AVATAR_FILE if given.is_dir() or not given.suffix else given


def _create(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.models.checkpoint import load_avatar, read_checkpoint
    from rome_lightning.tracking import Tracker, read_image, track_photos

    if args.checkpoint == DEMO_CHECKPOINT and not DEMO_CHECKPOINT.is_file():
        raise FileNotFoundError(
            f"no model at {DEMO_CHECKPOINT}: train one with `make demo`, or give yours with --checkpoint"
        )
    photos = [read_image(path) for path in args.photos]
    model = load_avatar(args.checkpoint)
    image_size = args.image_size or read_checkpoint(args.checkpoint)["image_size"]
    # Sharper than the model needs: the exported texture is taken from it.
    tracker = Tracker(model.head, image_size=max(image_size, PHOTO_SIZE))
    frames = track_photos(tracker, photos, [str(path) for path in args.photos])
    _warn_of_others(frames, args.photos)
    avatar = Avatar.create(model, frames, image_size, args.refine_steps)
    path = _save(avatar, args.output)
    names = ", ".join(map(str, args.photos))
    print(f"{path}: avatar of {names}; look at {args.output / 'preview.png'}")
    return 0


def _save(avatar: Avatar, folder: Path) -> Path:
    """The avatar and a picture of it."""
    from PIL import Image

    from rome_lightning.evaluation.pictures import preview, to_uint8

    avatar.save(folder / AVATAR_FILE)
    Image.fromarray(to_uint8(preview(avatar))).save(folder / "preview.png")
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
    video, tracked = _track_driver(avatar, args.driver, args.max_frames)
    lost = ~tracked.valid
    params, shown = fill_lost(tracked.params, lost, args.lost)
    if args.relative:
        first = (~lost).nonzero()[0]
        params = relative_motion(params, tracked.params[first], avatar.source.params)
    frames = _with_params(tracked, shown, params)
    _write(args.output, _drawn(avatar, frames, lost[shown], args.compare), len(frames), video)
    if args.output.suffix and args.lost != "skip":
        from rome_lightning.tracking.audio import copy_audio

        copy_audio(args.output, args.driver)
    spans = runs(lost.nonzero().flatten())
    record = {
        "driver": str(args.driver),
        "driver_frames": len(video),
        "lost_frames": spans,
        "lost": args.lost,
        "relative": args.relative,
        "frames": len(frames),
        "fps": video.fps,
    }
    args.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    if spans:
        where = ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)
        print(f"lost {int(lost.sum())} of {len(video)} frames ({args.lost}): {where}", file=sys.stderr)
    print(f"{args.output}: {len(frames)} frames")
    return 0


def _track_driver(avatar: Avatar, path: Path, max_frames: int | None) -> tuple[Video, TrackedClip]:
    from rome_lightning.tracking import Tracker, read_video

    video = read_video(path, max_frames=max_frames, max_side=LARGEST_FRAME)
    print(f"tracking {len(video)} frames of {path}", file=sys.stderr)
    tracker = Tracker(avatar.model.head, image_size=avatar.image_size[0])
    return video, tracker.track(video.frames, fps=video.fps, masks=False)


def _with_params(tracked: TrackedClip, shown: torch.Tensor, params: HeadParams) -> Frames:
    """The driver's frames that are shown, with the parameters that they are shown with."""
    import dataclasses

    return dataclasses.replace(tracked.to_frames()[shown], params=params)


def _drawn(avatar: Avatar, frames: Frames, lost: torch.Tensor, compare: bool) -> Iterator[np.ndarray]:
    """The frames to write; in a comparison a red border shows where the driver is lost."""
    from rome_lightning.evaluation.pictures import driven_frames

    for frame, is_lost in zip(driven_frames(avatar, frames, compare), lost.tolist(), strict=True):
        if compare and is_lost:
            width = max(2, frame.shape[0] // 64)
            for side in (frame[:width], frame[-width:], frame[:, :width], frame[:, -width:]):
                side[:] = (220, 30, 30)
        yield frame


def _write(output: Path, frames: Iterator[np.ndarray], total: int, video: Video) -> None:
    """A video, or a folder of pictures."""
    from PIL import Image
    from rich.progress import track

    from rome_lightning.tracking import write_video

    frames = iter(track(frames, description="rendering", total=total))
    if output.suffix:
        write_video(output, frames, video.fps)
        return
    output.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(output / f"{index:05d}.png")


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


def _export(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.export.person import export_avatar

    path, output = avatar_path(args.avatar), _export_file(args)
    avatar = Avatar.load(path)
    if args.format == "smplx":
        written = [_export_smplx(avatar, args, output)]
    elif args.format == "flipbook":
        written = _export_flipbook(avatar, args, output)
    elif args.driver is None:
        written = [export_avatar(avatar, output, args.format)]
    else:
        written = _export_poses(avatar, args, output)
    for file in written:
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


def _export_file(args: argparse.Namespace) -> Path:
    """File to write, once the options are found to fit each other."""
    from rome_lightning.export.person import RIGGED, SUFFIXES

    names: dict[str, str] = {name: f"avatar{suffix}" for name, suffix in SUFFIXES.items()}
    # Beside the avatar lie `params` and the texture of `obj` under the plain names.
    names |= {"smplx": "avatar_smplx.npz", "flipbook": "avatar_flipbook.png"}
    suffix = Path(names[args.format]).suffix
    if args.output is not None and args.output.suffix.lower() != suffix:
        raise ValueError(f"--format {args.format} writes a {suffix} file, got --output {args.output}")
    if args.format in (*RIGGED, "smplx") and (args.driver or args.frame):
        raise ValueError(
            f"--format {args.format} is rigged and holds every pose; --driver is for obj, ply, params and "
            "flipbook"
        )
    if args.frame and not args.driver:
        raise ValueError("--frame is a frame of --driver VIDEO, which is missing")
    if args.format == "flipbook" and (args.frame or not args.driver):
        raise ValueError(
            "--format flipbook shows the frames of --driver VIDEO one after the other, no --frame"
        )
    if args.format == "smplx" and not (args.body and args.correspondence):
        raise ValueError(
            "--format smplx needs --body SMPLX_NEUTRAL.npz and --correspondence "
            "SMPL-X__FLAME_vertex_ids.npy, both from https://smpl-x.is.tue.mpg.de under the SMPL-X licence"
        )
    owners = {"body": "smplx", "correspondence": "smplx", "flame": "smplx", "max_frames": "flipbook"}
    for name, owner in owners.items():
        if getattr(args, name) is not None and args.format != owner:
            raise ValueError(f"--{name.replace('_', '-')} is for --format {owner}, got {args.format}")
    given: Path | None = args.output
    return given or avatar_path(args.avatar).with_name(names[args.format])


def _export_smplx(avatar: Avatar, args: argparse.Namespace, output: Path) -> Path:
    from rome_lightning.export.smplx import SMPLX_LICENCE, export_smplx
    from rome_lightning.head import load_head

    flame = avatar.model.head if args.flame is None else load_head(args.flame)
    written = export_smplx(avatar, output, args.body, args.correspondence, flame)
    print(f"under the licence of {args.body}: {SMPLX_LICENCE}", file=sys.stderr)
    return written


def _export_flipbook(avatar: Avatar, args: argparse.Namespace, output: Path) -> list[Path]:
    from rome_lightning.avatar.motion import fill_lost
    from rome_lightning.export.flipbook import export_flipbook

    video, tracked = _track_driver(avatar, args.driver, args.max_frames)
    params, _ = fill_lost(tracked.params, ~tracked.valid, "hold")
    lost = int((~tracked.valid).sum())
    if lost:
        print(f"lost {lost} of {len(params)} frames, the last pose is held", file=sys.stderr)
    return export_flipbook(avatar, output, params, video.fps)


def _export_poses(avatar: Avatar, args: argparse.Namespace, output: Path) -> list[Path]:
    """One file per wanted frame of the driver, or one with the parameters of all."""
    import torch

    from rome_lightning.export.person import export_avatar

    last = max(args.frame) + 1 if args.frame else (None if args.format == "params" else 1)
    _, tracked = _track_driver(avatar, args.driver, last)
    wanted = torch.tensor(args.frame or range(len(tracked)))
    if int(wanted.max()) >= len(tracked):
        raise ValueError(f"{args.driver} has {len(tracked)} frames, --frame {int(wanted.max())} is not there")
    lost = wanted[~tracked.valid[wanted]]
    if len(lost) and args.frame:
        reason = tracked.reasons[int(lost[0])]
        raise ValueError(f"frame {int(lost[0])} of {args.driver} cannot be used: {reason}; take another one")
    if args.format == "params":
        kept = wanted[tracked.valid[wanted]]
        if len(lost):
            print(f"left out {len(lost)} lost frames", file=sys.stderr)
        return [export_avatar(avatar, output, args.format, tracked.params[kept])]
    many = len(wanted) > 1
    return [
        export_avatar(
            avatar,
            output.with_name(f"{output.stem}_{number:05d}{output.suffix}") if many else output,
            args.format,
            tracked.params[slice(number, number + 1)],
        )
        for number in wanted.tolist()
    ]


def _view(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.models import LinearBasis
    from rome_lightning.viewer import ViewerServer, ViewerSession
    from rome_lightning.viewer.browser import find_browser, take_screenshot

    if args.screenshot is not None:
        find_browser()
    path = avatar_path(args.avatar)
    basis = None if args.basis is None else LinearBasis.load(args.basis)
    session = ViewerSession(Avatar.load(path), path.parent.resolve().name, basis)
    with ViewerServer(session, 0 if args.screenshot is not None else args.port) as server:
        address = server.url + (f"#{args.state}" if args.state else "")
        if args.screenshot is not None:
            take_screenshot(server.url, args.screenshot, args.state)
            print(f"{args.screenshot}: {address}")
            return 0
        print(f"{address}  (open it in a browser; Ctrl-C ends it)", flush=True)
        server.wait()
    return 0
