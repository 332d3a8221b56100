"""``rome import-checkpoint | export-checkpoint``: official ROME weights to our checkpoints and back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rome_lightning.cli.parsing import StrictParser


def build_parser(name: str) -> StrictParser:
    """Options of one of the two commands."""
    if name == "import-checkpoint":
        parser = StrictParser(
            prog="rome import-checkpoint",
            description="Convert the official rome.pth to a checkpoint of this project and account for "
            "every key. Use the result like your own checkpoints: rome avatar create --checkpoint, "
            "rome evaluate "
            "--checkpoint, rome fit --model.init_args.init_from, rome distill --checkpoint.",
        )
        parser.add_argument("file", type=Path, help="The official rome.pth.")
        parser.add_argument("-o", "--output", type=Path, required=True, help="Checkpoint to write (.ckpt).")
        parser.add_argument(
            "--head",
            type=Path,
            required=True,
            help="FLAME's generic_model.pkl; the checkpoint stores its absolute path.",
        )
        parser.add_argument(
            "--release",
            type=Path,
            metavar="FOLDER",
            help="The release's data folder, for files that are not beside the head: "
            "faces_v2.pth, uvfaces_v2.pth, vertex_uvcoords.pth, hair_list.pkl, neck_list.pkl, u_full.pt; "
            "head_template.obj is taken from DECA/data beside the folder.",
        )
        parser.add_argument(
            "--approximate",
            action="store_true",
            help="Continue without some of those files and say what will be wrong.",
        )
        parser.add_argument(
            "--linear",
            type=Path,
            metavar="FOLDER",
            help="Folder with the release's u_full.pt, mean_deform.pt and linear_hair.pth, and "
            "disp_model.pth if you have it: write the released linear model, with the texture encoder and "
            "image network of FILE.",
        )
        parser.add_argument(
            "--partial",
            action="store_true",
            help="Write the checkpoint even if keys are missing, unexpected or of the wrong shape; missing "
            "weights stay randomly initialized, so this is for fine-tuning only.",
        )
        return parser
    parser = StrictParser(
        prog="rome export-checkpoint",
        description="Write a model of the released architecture (rome/release) under the "
        "official names, for the official code.",
    )
    parser.add_argument("file", type=Path, help="Checkpoint of `rome fit` or `rome import-checkpoint`.")
    parser.add_argument("--format", choices=("official",), default="official", help="Format of the file.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="File to write (.pth).")
    return parser


def main(argv: list[str]) -> int:
    """Run one of the commands; ``argv`` starts with its name."""
    name, *rest = argv
    args = build_parser(name).parse_args(rest)
    return _import(args) if name == "import-checkpoint" else _export(args)


def _import(args: argparse.Namespace) -> int:
    from rome_lightning.head.flame.released import check_released
    from rome_lightning.media.provenance import code_and_versions
    from rome_lightning.models.official import import_official, write_checkpoint
    from rome_lightning.models.official_linear import import_linear

    checkpoint, report = import_official(args.file, args.head, args.release, args.approximate)
    for line in check_released(args.head, args.release or ""):
        print(f"rome: approximate: {line}", file=sys.stderr)
    print(report.as_text())
    if not report.complete and not args.partial:
        print(
            f"rome: error: {args.file} does not fit the released architecture; nothing was written "
            "(--partial writes what fits)",
            file=sys.stderr,
        )
        return 1
    if args.linear is not None:
        checkpoint = import_linear(checkpoint, args.linear)
    write_checkpoint(checkpoint | {"code": code_and_versions()}, args.output)
    print(f"{args.output}: the release's weights; try `rome avatar create PHOTO --checkpoint {args.output}`")
    return 0


def _export(args: argparse.Namespace) -> int:
    from rome_lightning.models.checkpoint import CONFIG_KEY, config_from_dict, read_checkpoint
    from rome_lightning.models.official import official_differences, to_official, write_checkpoint

    checkpoint = read_checkpoint(args.file)
    state = checkpoint["state_dict"]
    kept = {key: value for key, value in state.items() if key.startswith(("avatar.", "discriminator."))}
    exported = to_official(kept)
    for line in official_differences(config_from_dict(checkpoint[CONFIG_KEY]), exported):
        print(f"rome: warning: the official code gives another picture: {line}", file=sys.stderr)
    write_checkpoint(exported, args.output)
    print(f"{args.output}: {len(kept)} tensors under the official names")
    return 0
