"""``rome avatar create | animate | track | edit | export | view``: photographs to videos and meshes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_animate import add_animate, add_track, animate, track
from rome_lightning.cli.avatar_common import add_avatar, add_deca, count, read_encoder
from rome_lightning.cli.avatar_export import add_export, export
from rome_lightning.cli.parsing import StrictParser
from rome_lightning.cli.progress import shown
from rome_lightning.media.escaping import printable

if TYPE_CHECKING:
    from rome_lightning.avatar import Avatar
    from rome_lightning.models import AvatarModel
    from rome_lightning.tracking import Tracker
    from rome_lightning.tracking.foreign import FlameTrack


def build_parser() -> StrictParser:
    """Options of the sub-commands."""
    parser = StrictParser(prog="rome avatar", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_create(commands)
    add_animate(commands)
    add_track(commands)
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
        "--each",
        action="store_true",
        help="An avatar of each photograph, in a folder of its own under --output, named after the file.",
    )
    create.add_argument(
        "--checkpoint",
        help="Name of a shipped model (`rome models list`), or a file made by `rome fit` (default: the "
        "shipped model).",
    )
    create.add_argument(
        "--params",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="FLAME parameters of DECA, EMOCA, SMIRK or VHAP, one file per PHOTO in the same order, in place "
        "of our tracker's; for models with a FLAME head.",
    )
    add_deca(create, "the photographs")
    create.add_argument(
        "--refine-steps",
        type=count,
        default=16,
        help="Steps that fit hair and shoulders to the outlines (default: 16; 0: keep what the network "
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
        default=512,
        help="Side of the crop that the avatar keeps of its photographs and is drawn at, pixels (default: "
        "512; 1024 for large photographs).",
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
    commands = {
        "create": _create,
        "animate": animate,
        "track": track,
        "edit": _edit,
        "export": export,
        "view": _view,
    }
    return commands[args.command](args)


def _create(args: argparse.Namespace) -> int:
    from rome_lightning.avatar.making import photo_tracker
    from rome_lightning.models.shipped import open_model

    if args.params is not None and args.deca is not None:
        raise ValueError("--params and --deca are two sources of the same parameters; omit one")
    tracks, encoder = _tracks_of(args), read_encoder(args.deca)
    with shown("reading the model"):
        model = open_model(args.checkpoint)
    tracker = photo_tracker(model, args.photo_size, args.image_size, encoder)
    if not args.each:
        _make(args, model, tracker, args.photos, args.output, tracks)
        return 0
    return _make_each(args, model, tracker, tracks)


def _tracks_of(args: argparse.Namespace) -> list[FlameTrack] | None:
    """Parameters of each photograph, if there are any."""
    if args.params is None:
        return None
    from rome_lightning.tracking.foreign import read_track, rows_of

    if len(args.params) != len(args.photos):
        raise ValueError(
            f"--params wants a file for each photograph, got {len(args.params)} for {len(args.photos)}"
        )
    tracks = []
    for photo, file in zip(args.photos, args.params, strict=True):
        track = read_track(file)
        if len(track) > 1 and not track.names:
            raise ValueError(f"{file} has parameters of {len(track)} pictures; save those of {photo} alone")
        tracks.append(rows_of(track, [photo.stem]) if len(track) > 1 else track)
    return tracks


def _make_each(
    args: argparse.Namespace, model: AvatarModel, tracker: Tracker, tracks: list[FlameTrack] | None
) -> int:
    """An avatar per photograph; one that fails does not keep the others from being made."""
    names = [path.stem for path in args.photos]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--each names folders after the files, and {repeated[0]} is given more than once")
    failed = 0
    for index, path in enumerate(args.photos):
        own = None if tracks is None else [tracks[index]]
        try:
            _make(args, model, tracker, [path], args.output / path.stem, own)
        except (ValueError, OSError) as error:
            failed += 1
            print(printable(f"rome: error: {error}"), file=sys.stderr)
    print(f"{args.output}: {len(args.photos) - failed} of {len(args.photos)} avatars")
    return 1 if failed else 0


def _make(
    args: argparse.Namespace,
    model: AvatarModel,
    tracker: Tracker,
    paths: list[Path],
    output: Path,
    tracks: list[FlameTrack] | None,
) -> None:
    """One person's avatar from photographs to its folder."""
    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.making import read_person

    with shown(f"tracking {len(paths)} photograph{'s' * (len(paths) > 1)}"):
        frames = read_person(
            tracker,
            paths,
            lambda text: print(f"warning: {text}", file=sys.stderr),
            face=args.face,
            tracks=tracks,
        )
    image_size = args.image_size or model.image_size
    with shown("fitting the outline", args.refine_steps) as done:
        avatar = Avatar.create(
            model, frames, image_size, args.refine_steps, done, [path.name for path in paths]
        )
    with shown("drawing the preview"):
        path = _save(avatar, output)
    names = ", ".join(map(str, paths))
    print(printable(f"{path}: avatar of {names}; look at {output / 'preview.png'}"))


def _save(avatar: Avatar, folder: Path) -> Path:
    """The avatar and a picture of it."""
    from rome_lightning.avatar.file import AVATAR_FILE
    from rome_lightning.media.image import to_uint8, write_png
    from rome_lightning.report.pictures import preview

    avatar.save(folder / AVATAR_FILE)
    write_png(folder / "preview.png", to_uint8(preview(avatar)))
    return folder / AVATAR_FILE


def _edit(args: argparse.Namespace) -> int:
    from rome_lightning.avatar import Avatar
    from rome_lightning.models import LinearBasis

    if len(args.component) != len(args.amount):
        raise ValueError(
            f"every --component needs its --amount, got {len(args.component)} and {len(args.amount)}"
        )
    if 0 in args.component:
        raise ValueError("components are counted from 1, got --component 0")
    avatar, basis = Avatar.load(args.avatar), LinearBasis.load(args.basis)
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
    from rome_lightning.avatar.file import avatar_file
    from rome_lightning.models import LinearBasis
    from rome_lightning.viewer import ViewerServer, ViewerSession
    from rome_lightning.viewer.browser import find_browser, take_screenshot
    from rome_lightning.viewer.state import check_state

    if args.screenshot is not None:
        find_browser()
    path = avatar_file(args.avatar)
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
