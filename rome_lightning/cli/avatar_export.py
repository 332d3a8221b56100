"""``rome avatar export``: the files that other tools open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_common import add_avatar, avatar_path, count, track_driver
from rome_lightning.cli.progress import counted, shown

if TYPE_CHECKING:
    from rome_lightning.avatar import Avatar


def add_export(commands: argparse._SubParsersAction) -> None:
    """Options of ``rome avatar export``."""
    export = commands.add_parser("export", help="Write the avatar for other tools.")
    add_avatar(export)
    export.add_argument(
        "--format",
        choices=("glb", "obj", "ply", "usd", "params", "flipbook", "smplx"),
        default="glb",
        help="glb, usd: rigged mesh with a morph target per expression; obj: textured mesh; ply: mesh with "
        "coloured vertices; params: parameters of the head model by FLAME's names (.npz); flipbook: the "
        "neural "
        "render over a driver's frames in one .png, and a .json; smplx: your SMPL-X body with the avatar's "
        "hair and shoulders (.npz). Default: glb.",
    )
    export.add_argument("-o", "--output", type=Path, help="File to write (default: beside the avatar).")
    export.add_argument(
        "--driver",
        type=Path,
        help="Video that gives the poses for obj, ply and params (default: at rest); required for flipbook.",
    )
    export.add_argument(
        "--frame",
        type=count,
        action="append",
        help="Frame of the driver, from 0; may be given several times, one file each (default: the first "
        "for obj and ply, all for params).",
    )
    export.add_argument(
        "--max-frames", type=count, help="flipbook: stop after this many frames of the driver."
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


def export(args: argparse.Namespace) -> int:
    """Run ``rome avatar export``."""
    from rome_lightning.avatar import Avatar
    from rome_lightning.export.person import export_avatar

    path, output = avatar_path(args.avatar), _export_file(args)
    avatar = Avatar.load(path)
    if args.format == "smplx":
        written = [_export_smplx(avatar, args, output)]
    elif args.format == "flipbook":
        written = _export_flipbook(avatar, args, output)
    elif args.driver is None:
        with shown(f"writing {output.name}"):
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
        raise ValueError("--format flipbook shows all frames of --driver VIDEO; --frame does not apply")
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
    with shown(f"writing {output.name}"):
        written = export_smplx(avatar, output, args.body, args.correspondence, flame)
    print(f"under the licence of {args.body}: {SMPLX_LICENCE}", file=sys.stderr)
    return written


def _export_flipbook(avatar: Avatar, args: argparse.Namespace, output: Path) -> list[Path]:
    from rome_lightning.avatar.motion import fill_lost
    from rome_lightning.export.flipbook import export_flipbook

    video, tracked = track_driver(avatar, args.driver, args.max_frames)
    params, _ = fill_lost(tracked.params, ~tracked.valid, "hold")
    lost = int((~tracked.valid).sum())
    if lost:
        print(f"lost {lost} of {len(params)} frames, the last pose is held", file=sys.stderr)
    with shown("drawing"):
        return export_flipbook(avatar, output, params, video.fps)


def _export_poses(avatar: Avatar, args: argparse.Namespace, output: Path) -> list[Path]:
    """One file per wanted frame of the driver, or one with the parameters of all."""
    import torch

    from rome_lightning.export.person import export_avatar

    last = max(args.frame) + 1 if args.frame else (None if args.format == "params" else 1)
    _, tracked = track_driver(avatar, args.driver, last)
    wanted = torch.tensor(args.frame or range(len(tracked)))
    if int(wanted.max()) >= len(tracked):
        raise ValueError(
            f"{args.driver} has {len(tracked)} frames, --frame {int(wanted.max())} does not exist"
        )
    lost = wanted[~tracked.valid[wanted]]
    if len(lost) and args.frame:
        reason = tracked.reasons[int(lost[0])]
        raise ValueError(
            f"frame {int(lost[0])} of {args.driver} cannot be used: {reason}; choose another frame"
        )
    if args.format == "params":
        kept = wanted[tracked.valid[wanted]]
        if len(lost):
            print(f"skipped {len(lost)} lost frames", file=sys.stderr)
        return [export_avatar(avatar, output, args.format, tracked.params[kept])]
    many = len(wanted) > 1
    return [
        export_avatar(
            avatar,
            output.with_name(f"{output.stem}_{number:05d}{output.suffix}") if many else output,
            args.format,
            tracked.params[slice(number, number + 1)],
        )
        for number in counted(wanted.tolist(), "writing", len(wanted))
    ]
