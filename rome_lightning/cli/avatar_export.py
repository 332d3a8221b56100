"""``rome avatar export``: write files for other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_common import add_avatar, count, load_driver, shares
from rome_lightning.cli.progress import counted, shown

if TYPE_CHECKING:
    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.driver import Driver
    from rome_lightning.export.animation import Motion
    from rome_lightning.export.profiles import Profile
    from rome_lightning.types import HeadParams


BODY_PARTS = ("none", "bust", "full")
"""Copy of ``rome_lightning.export.person.BodyPart``, for the same reason as below."""
PROFILES = ("three", "blender", "unity", "unreal", "godot", "talkinghead", "readyplayerme")
"""Copy of the names in ``rome_lightning.export.profiles``, whose import is too slow for a help text."""


def add_export(commands: argparse._SubParsersAction) -> None:
    """Options of ``rome avatar export``."""
    export = commands.add_parser("export", help="Write the avatar for other tools.")
    add_avatar(export)
    export.add_argument(
        "--format",
        choices=("glb", "vrm", "vrm0", "web", "obj", "ply", "usd", "params", "flipbook", "smplx"),
        default="glb",
        help="glb, usd: rigged mesh with a morph target per expression; vrm, vrm0: the same as a VRM "
        "avatar (1.0, and 0.x for programs that read nothing newer); web: a folder for any static host, a "
        "page with sliders that other pages can embed; obj: textured mesh; ply: mesh with coloured vertices; "
        "params: parameters of the head model by FLAME's names (.npz); flipbook: the neural render over a "
        "driver's frames in one .png, and a .json; smplx: your SMPL-X body with the avatar's hair and "
        "shoulders (.npz). Default: glb.",
    )
    export.add_argument(
        "--animation",
        type=Path,
        metavar="DRIVER",
        help="glb: an animation clip in the file, from a video, photographs or recorded motion (see `animate "
        "--driver`).",
    )
    export.add_argument(
        "--visemes",
        action="store_true",
        default=None,
        help="glb: 15 more morph targets, the mouth shapes of Oculus LipSync (viseme_aa, ...), for "
        "lip-sync programs.",
    )
    export.add_argument(
        "--profile",
        choices=PROFILES,
        help="glb: names, skeleton, extra shapes, texture and material as this program expects them "
        "(default: plain glTF). talkinghead and readyplayerme: a standing rig with Mixamo's names.",
    )
    export.add_argument(
        "--texture",
        choices=("png", "jpeg", "webp"),
        help="glb: format of the texture: png is exact, jpeg a fraction of it, webp less again, for programs "
        "that read EXT_texture_webp (default: as --profile has it, else png).",
    )
    export.add_argument(
        "--compress",
        choices=("quantize", "draco"),
        help="glb: quantize: numbers of 8 and 16 bits, for programs that read KHR_mesh_quantization; draco: "
        "the mesh packed by Draco besides, for programs that read KHR_draco_mesh_compression (needs `pip "
        "install rome-lightning[draco]`).",
    )
    export.add_argument(
        "--lod",
        type=shares,
        metavar="SHARE[,SHARE...]",
        help="glb: levels of detail besides, each a file with this share of the triangles: 0.5,0.25 writes "
        "NAME_lod1.glb and NAME_lod2.glb (needs `pip install rome-lightning[lod]`).",
    )
    export.add_argument(
        "--webcam",
        action="store_true",
        default=None,
        help="web: let the page follow the viewer's webcam; adds MediaPipe to the folder (14 MB, fetched "
        "once).",
    )
    export.add_argument(
        "--neural",
        action="store_true",
        default=None,
        help="web: let the page show the neural render too; adds the networks and onnxruntime to the "
        "folder (50 MB, of which 11 are fetched once; needs `pip install rome-lightning[onnx]`).",
    )
    export.add_argument(
        "--webgpu",
        action="store_true",
        default=None,
        help="web, with --neural: let the page use WebGPU where the viewer's browser has it (22 MB more, "
        "fetched once).",
    )
    export.add_argument(
        "--copyright",
        help="Owner of the photograph for the file's copyright notice, such as '2026 Jane Doe, CC BY 4.0' "
        "(default: names the photograph).",
    )
    export.add_argument(
        "--author", help="vrm: person responsible for the avatar (default: 'the owner of the photograph')."
    )
    export.add_argument("-o", "--output", type=Path, help="File to write (default: beside the avatar).")
    export.add_argument(
        "--driver",
        type=Path,
        help="Video, photographs or recorded motion with the poses for obj, ply and params (default: at "
        "rest); required for flipbook.",
    )
    export.add_argument(
        "--frame",
        type=count,
        action="append",
        help="Frame of the driver, from 0; may be given several times, one file each (default: the first "
        "for obj and ply, all for params).",
    )
    export.add_argument(
        "--max-frames", type=count, help="flipbook, --animation: stop after this many frames of the driver."
    )
    export.add_argument(
        "--body",
        metavar="none|bust|full|FILE",
        help="glb, vrm, vrm0, web, usd: none: head and neck; bust: as much as the photograph shows "
        "(default); full: a whole body in plain clothes of the photograph's colour, in a T-pose (glb and usd "
        "then have a standing rig with Mixamo's names). smplx: your SMPLX_NEUTRAL.npz, from https://smpl-x.is.tue.mpg.de.",
    )
    export.add_argument(
        "--correspondence", type=Path, help="smplx: your SMPL-X__FLAME_vertex_ids.npy, from the same page."
    )
    export.add_argument(
        "--flame", type=Path, help="smplx: your generic_model.pkl, for an avatar with another head model."
    )


def export(args: argparse.Namespace) -> int:
    """Run ``rome avatar export``."""
    from rome_lightning.avatar import Avatar
    from rome_lightning.export.person import export_avatar

    output = _export_file(args)
    avatar = Avatar.load(args.avatar)
    if args.format == "smplx":
        written = [_export_smplx(avatar, args, output)]
    elif args.format == "flipbook":
        written = _export_flipbook(avatar, args, output)
    elif args.format == "web":
        from rome_lightning.export.web_page import export_web

        motion = None if args.animation is None else _motion(avatar, args)
        with shown(f"writing {output.name}"):
            parts = {name: bool(getattr(args, name)) for name in ("webcam", "neural", "webgpu")}
            written = export_web(avatar, output, motion, args.copyright, **parts, body=args.body or "bust")
    elif args.lod is not None:
        from rome_lightning.export.person import export_lods

        motion = None if args.animation is None else _motion(avatar, args)
        with shown(f"writing {output.name}"):
            written = export_lods(
                avatar, output, args.lod, motion, args.copyright, _profile(args), args.body or "bust"
            )
    elif args.driver is None:
        motion = None if args.animation is None else _motion(avatar, args)
        with shown(f"writing {output.name}"):
            file = export_avatar(
                avatar,
                output,
                args.format,
                motion=motion,
                rights=args.copyright,
                author=args.author,
                profile=_profile(args),
                body=args.body or "bust",
            )
        written = [file]
    else:
        written = _export_poses(avatar, args, output)
    for file in written:
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


def _profile(args: argparse.Namespace) -> Profile:
    """What ``--profile``, ``--visemes``, ``--texture`` and ``--compress`` say."""
    import dataclasses

    from rome_lightning.export.profiles import PLAIN, PROFILES
    from rome_lightning.export.visemes import VISEMES

    profile = PLAIN if args.profile is None else PROFILES[args.profile]
    asked = {"texture": args.texture, "compress": args.compress}
    changes = {name: value for name, value in asked.items() if value is not None}
    if changes:
        profile = dataclasses.replace(profile, **changes)
    return dataclasses.replace(profile, mixes=VISEMES | dict(profile.mixes)) if args.visemes else profile


def _export_file(args: argparse.Namespace) -> Path:
    """Check that the options fit together and return the file to write."""
    from rome_lightning.export.person import RIGGED, SUFFIXES

    names: dict[str, str] = {name: f"avatar{suffix}" for name, suffix in SUFFIXES.items()}
    # The plain names beside the avatar are taken by `params` and the texture of `obj`.
    names |= {
        "smplx": "avatar_smplx.npz",
        "flipbook": "avatar_flipbook.png",
        "vrm0": "avatar_vrm0.vrm",
        "web": "web",
    }
    suffix = Path(names[args.format]).suffix
    if args.output is not None and args.output.suffix.lower() != suffix:
        kind = f"a {suffix} file" if suffix else "a folder without a suffix"
        raise ValueError(f"--format {args.format} writes {kind}, got --output {args.output}")
    if args.format in (*RIGGED, "smplx", "web") and (args.driver or args.frame):
        raise ValueError(
            f"--format {args.format} is rigged and contains every pose; --driver is for obj, ply, params "
            f"and flipbook"
        )
    if args.frame and not args.driver:
        raise ValueError("--frame needs --driver VIDEO")
    if args.format == "flipbook" and (args.frame or not args.driver):
        raise ValueError("--format flipbook shows all frames of --driver VIDEO; --frame does not apply")
    if args.format == "smplx" and not (args.body and args.correspondence):
        raise ValueError(
            "--format smplx needs --body SMPLX_NEUTRAL.npz and --correspondence "
            "SMPL-X__FLAME_vertex_ids.npy, both from https://smpl-x.is.tue.mpg.de under the SMPL-X licence"
        )
    owners = {
        "body": ("glb", "vrm", "vrm0", "web", "usd", "smplx"),
        "correspondence": ("smplx",),
        "flame": ("smplx",),
        "animation": ("glb", "web"),
        "visemes": ("glb",),
        "profile": ("glb",),
        "texture": ("glb",),
        "compress": ("glb",),
        "lod": ("glb",),
        "webcam": ("web",),
        "neural": ("web",),
        "webgpu": ("web",),
        "copyright": ("glb", "vrm", "vrm0", "web", "usd"),
        "author": ("vrm", "vrm0"),
        "max_frames": ("flipbook", "glb", "web"),
    }
    for name, owner in owners.items():
        if getattr(args, name) is not None and args.format not in owner:
            raise ValueError(
                f"--{name.replace('_', '-')} is for --format {' or '.join(owner)}, got {args.format}"
            )
    _check_body(args)
    from rome_lightning.avatar.file import avatar_file

    given: Path | None = args.output
    return given or avatar_file(args.avatar).with_name(names[args.format])


def _check_body(args: argparse.Namespace) -> None:
    """Refuse a ``--body`` that the format does not have."""
    if args.body is None or args.format == "smplx":
        return
    if args.body not in BODY_PARTS:
        raise ValueError(f"--body of --format {args.format} must be {', '.join(BODY_PARTS)}, got {args.body}")


def _export_smplx(avatar: Avatar, args: argparse.Namespace, output: Path) -> Path:
    from rome_lightning.export.smplx import SMPLX_LICENCE, export_smplx
    from rome_lightning.head import load_head

    flame = avatar.model.head if args.flame is None else load_head(args.flame)
    with shown(f"writing {output.name}"):
        written = export_smplx(avatar, output, Path(args.body), args.correspondence, flame)
    print(f"under the licence of {args.body}: {SMPLX_LICENCE}", file=sys.stderr)
    return written


def _export_flipbook(avatar: Avatar, args: argparse.Namespace, output: Path) -> list[Path]:
    from rome_lightning.export.flipbook import export_flipbook

    driver = load_driver(avatar, args.driver, args.max_frames)
    params = _held(driver)
    with shown("drawing"):
        return export_flipbook(avatar, output, params, driver.fps)


def _motion(avatar: Avatar, args: argparse.Namespace) -> Motion:
    """The clip of ``--animation``."""
    import torch

    from rome_lightning.export.animation import Motion

    driver = load_driver(avatar, args.animation, args.max_frames)
    times = torch.from_numpy(driver.times - driver.times[0]).float()
    return Motion(_held(driver), times, args.animation.stem)


def _held(driver: Driver) -> HeadParams:
    """The driver's poses; lost frames repeat the last one."""
    from rome_lightning.avatar.motion import fill_lost

    params, _ = fill_lost(driver.params, driver.lost, "hold")
    if lost := int(driver.lost.sum()):
        print(f"lost {lost} of {len(params)} frames, the last pose is held", file=sys.stderr)
    return params


def _export_poses(avatar: Avatar, args: argparse.Namespace, output: Path) -> list[Path]:
    """Write one file per requested frame of the driver, or one with the parameters of all frames."""
    import torch

    from rome_lightning.export.person import export_avatar

    last = max(args.frame) + 1 if args.frame else (None if args.format == "params" else 1)
    driver = load_driver(avatar, args.driver, last)
    wanted = torch.tensor(args.frame or range(len(driver)))
    if int(wanted.max()) >= len(driver):
        raise ValueError(
            f"{args.driver} has {len(driver)} frames, --frame {int(wanted.max())} does not exist"
        )
    lost = wanted[driver.lost[wanted]]
    if len(lost) and args.frame:
        reason = driver.reasons[int(lost[0])]
        raise ValueError(
            f"frame {int(lost[0])} of {args.driver} cannot be used: {reason}; choose another frame"
        )
    if args.format == "params":
        kept = wanted[~driver.lost[wanted]]
        if len(lost):
            print(f"skipped {len(lost)} lost frames", file=sys.stderr)
        return [export_avatar(avatar, output, args.format, driver.params[kept])]
    many = len(wanted) > 1
    return [
        export_avatar(
            avatar,
            output.with_name(f"{output.stem}_{number:05d}{output.suffix}") if many else output,
            args.format,
            driver.params[slice(number, number + 1)],
        )
        for number in counted(wanted.tolist(), "writing", len(wanted))
    ]
