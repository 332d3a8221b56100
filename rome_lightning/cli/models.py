"""``rome models list | card | export``: models that ship with the package, and exports of your own."""

from __future__ import annotations

from pathlib import Path

from rome_lightning.cli.parsing import StrictParser


def build_parser() -> StrictParser:
    """Options of the sub-commands."""
    parser = StrictParser(prog="rome models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="Name, size, licence, data and scores of each shipped model.")
    card = commands.add_parser("card", help="Print a model's card: intended use, limits, how it was made.")
    card.add_argument("name", help="Of the model.")
    export = commands.add_parser("export", help="Write a checkpoint's weights to a small file without code.")
    export.add_argument("checkpoint", type=Path, help="Checkpoint of `rome fit`.")
    export.add_argument("-o", "--output", type=Path, required=True, help="File to write (.safetensors).")
    export.add_argument(
        "--single", action="store_true", help="Keep single precision (default: half precision)."
    )
    return parser


def main(argv: list[str]) -> int:
    """Run a sub-command; ``argv`` is what follows ``rome models``."""
    args = build_parser().parse_args(argv)
    from rome_lightning.models.shipped import SHIPPED, model_names, write_model

    if args.command == "export":
        if args.output.suffix != ".safetensors":
            raise ValueError(f"--output must be a .safetensors file, got {args.output}")
        write_model(args.checkpoint, args.output, half=not args.single)
        print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
        return 0
    if args.command == "card":
        if args.name not in SHIPPED:
            raise ValueError(f"no shipped model {args.name!r}; there are: {model_names()}")
        print(SHIPPED[args.name].card.read_text(encoding="utf-8"))
        return 0
    for model in SHIPPED.values():
        print(f"{model.name}: {model.path.stat().st_size / 1e6:.1f} MB, {model.licence}")
        print(f"  trained on: {model.data}")
        for protocol, score in model.scores.items():
            print(f"  {protocol}: {score}")
        print(f"  card: rome models card {model.name}")
    return 0
