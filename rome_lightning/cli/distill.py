"""``rome distill``: distil a full model into a linear one, and use its basis."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from rome_lightning.cli.config_parsing import HintingParser, config_parser
from rome_lightning.cli.parsing import StrictParser, nearest
from rome_lightning.cli.terminal import TerminalReporter
from rome_lightning.workflows.options import BasisConfig, DistillConfig

Options = TypeVar("Options")
_COMMANDS = {
    "basis": "principal components of a full model's offsets over a dataset",
    "all": "the basis, the linear model trained on it, and a table that compares it with the full model",
    "transfer": "transfer a basis to another head model",
    "join": "write your FLAME file with a basis in it, for other FLAME software",
}
_USAGE = "\n".join(
    [
        "usage: rome distill COMMAND [OPTIONS]",
        "",
        "Distil a trained full model into a linear one (docs/linear.md).",
        "",
        "commands:",
        *(f"  {name:<9} {text}" for name, text in _COMMANDS.items()),
        "",
        "`rome distill COMMAND --help` lists the options.",
    ]
)


def _parser(name: str, config: type, description: str) -> HintingParser:
    parser = config_parser(f"rome distill {name}", description)
    parser.add_class_arguments(config, None)
    return parser


def main(argv: list[str]) -> int:
    """Run a sub-command.

    Args:
        argv: what follows ``rome distill``.

    Returns:
        0 on success.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "basis":
        return _basis(argv[1:])
    if argv[0] == "all":
        return _all(argv[1:])
    if argv[0] == "transfer":
        return _transfer(argv[1:])
    if argv[0] == "join":
        return _join(argv[1:])
    hint = nearest(argv[0], _COMMANDS)
    raise ValueError(f"unknown command {argv[0]!r}{hint or '; there are ' + ', '.join(_COMMANDS)}")


def _basis(argv: list[str]) -> int:
    parser = _parser(
        "basis",
        BasisConfig,
        "Principal components of a full model's offsets over a dataset. Run it again to resume after an "
        "interruption. Example: rome distill basis --checkpoint runs/full/a/checkpoints/best.ckpt "
        "--data data/mine -o basis.safetensors",
    )
    config = _parse(parser, argv, BasisConfig)
    from rome_lightning.distillation.fitting import beside
    from rome_lightning.workflows.basis import make_basis

    fit = make_basis(config, TerminalReporter())
    if fit is None:
        print(f"part {config.part} is done; run without --part when all parts are done", file=sys.stderr)
        return 0
    for name, curve in fit.curves.items():
        held_out = "" if curve.held_out_mm is None else f", {curve.held_out_mm[-1]:.2f} mm on other people"
        print(
            f"{name}: {len(curve.explained)} components of {fit.num_sources} sources keep "
            f"{100 * curve.explained[-1]:.1f} % of the variance; error {curve.error_mm[-1]:.2f} mm of "
            f"{curve.error_mm[0]:.2f} mm{held_out}"
        )
    assert config.output is not None
    print(f"{config.output}; look at {beside(config.output, '_components.png')}")
    return 0


def _all(argv: list[str]) -> int:
    parser = _parser(
        "all",
        DistillConfig,
        "Basis, training of the linear model, and a table: full against linear against no offsets, quality "
        "and speed. Run it again to resume after an interruption. Example: rome distill all --checkpoint "
        "runs/full/a/checkpoints/best.ckpt --data data/mine --output runs/linear/a",
    )
    config = _parse(parser, argv, DistillConfig)
    from rome_lightning.cli.fit import train
    from rome_lightning.workflows.distillation import distill

    done = distill(config, train, TerminalReporter())
    for table in done.tables:
        print(f"\n{table.caption}\n{table.as_text()}")
    print(f"\n{done.report}")
    return 0


def _transfer(argv: list[str]) -> int:
    parser = StrictParser(
        prog="rome distill transfer",
        description="Transfer a basis to another head model by registering the two templates; an "
        "approximation.",
    )
    parser.add_argument("basis", type=Path, help="Basis of `rome distill basis`.")
    parser.add_argument(
        "--source", default="open", help="Its head: open (default), or a FLAME generic_model.pkl."
    )
    parser.add_argument("--target", required=True, help="Target head: open, or a generic_model.pkl.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Basis to write (.safetensors).")
    args = parser.parse_args(argv)
    from rome_lightning.distillation.figures import components_figure
    from rome_lightning.distillation.fitting import beside
    from rome_lightning.distillation.transfer import transfer_basis
    from rome_lightning.head import load_head
    from rome_lightning.media.image import write_figure
    from rome_lightning.models import LinearBasis

    target = load_head(args.target)
    carried = transfer_basis(LinearBasis.load(args.basis), load_head(args.source), target)
    carried.save(args.output)
    picture = beside(args.output, "_components.png")
    write_figure(picture, components_figure(carried, target), dpi=120)
    print(f"{args.output}: basis of {carried.head}; look at {picture}")
    return 0


def _join(argv: list[str]) -> int:
    parser = StrictParser(
        prog="rome distill join",
        description="Write FLAME with a basis among its shape directions (docs/linear.md). The result is "
        "under FLAME's licence.",
    )
    parser.add_argument("basis", type=Path, help="Basis on the head of --flame.")
    parser.add_argument("--flame", type=Path, required=True, help="Your generic_model.pkl.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="File to write (.pkl).")
    parser.add_argument(
        "--place",
        choices=("end", "identity"),
        default="end",
        help="After FLAME's 400 directions (default; in smplx further expression coefficients), or in place "
        "of the last of its 300 identity components.",
    )
    args = parser.parse_args(argv)
    from rome_lightning.export.flame_basis import join_flame
    from rome_lightning.models import LinearBasis

    where = join_flame(args.flame, LinearBasis.load(args.basis), args.output, args.place)
    print(f"{args.output}: the basis is shapedirs {where.start} to {where.stop - 1}, in standard deviations")
    return 0


def _parse(parser: HintingParser, argv: list[str], config: type[Options]) -> Options:
    options = parser.parse_args(["--output" if argument == "-o" else argument for argument in argv])
    parsed = config(**{name: options[name] for name in config.__dataclass_fields__})  # type: ignore[attr-defined]
    for name in ("checkpoint", "data", "output"):
        if getattr(parsed, name) is None:
            parser.error(f"--{name} is required")
    return parsed
