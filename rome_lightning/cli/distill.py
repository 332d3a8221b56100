"""``rome distill``: a full model to a linear one, and what can be done with its basis."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

if TYPE_CHECKING:
    from rome_lightning.models import AvatarModel

Options = TypeVar("Options")
_COMMANDS = {
    "basis": "principal components of a full model's offsets over a dataset",
    "all": "the basis, the linear model trained on it, and a table of both against each other",
    "transfer": "carry a basis to another head model",
    "join": "write a user's own FLAME with a basis in it, for other FLAME software",
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


@dataclass
class BasisConfig:
    """Options of ``rome distill basis``."""

    checkpoint: Path | None = None
    """Full model, written by `rome fit`. Required."""
    data: Path | None = None
    """manifest.json of a dataset made by `rome prepare`, or its folder. Required."""
    output: Path | None = None
    """Basis to write, FILE.safetensors; curves, pictures, the clips' coefficients and the collected offsets
    go beside it, under the same name. Required."""
    hair: int = 50
    """Components of the scalp (paper: 50)."""
    neck: int = 10
    """Components of neck and shoulders (paper: 10)."""
    sources_per_clip: int = 1
    """Frames of each clip that are made avatars of: the typical one, then evenly spaced ones."""
    refine_steps: int = 100
    """Steps that fit each avatar to its photograph's outline before its offsets are taken, as
    `rome avatar create` does; 0 takes the network's own."""
    train_split: str = "train"
    """Split that the basis is made of."""
    held_out_split: str = "val"
    """Split that measures it on other people; left out if the dataset has none."""
    part: str = "0/1"
    """I/N: collect only every N-th block of clips from the I-th on, for N processes or machines that share
    the output; then run once more without it."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1."""


def _parser(name: str, config: type, description: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"rome distill {name}", exit_on_error=False, description=description)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options.")
    parser.add_class_arguments(config, None)
    return parser


def main(argv: list[str]) -> int:
    """Run a sub-command.

    Args:
        argv: what follows ``rome distill``.

    Returns:
        0 when all was done.
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
    raise ValueError(f"unknown command {argv[0]!r}; there are {', '.join(_COMMANDS)}")


def _basis(argv: list[str]) -> int:
    parser = _parser(
        "basis",
        BasisConfig,
        "Principal components of a full model's offsets over a dataset. Run it again to go on after an "
        "interruption. Example: rome distill basis --checkpoint runs/full/a/checkpoints/best.ckpt "
        "--data data/mine -o basis.safetensors",
    )
    make_basis(_parse(parser, argv, BasisConfig))
    return 0


def _all(argv: list[str]) -> int:
    from rome_lightning.cli.distill_all import AllConfig, distill_all

    parser = _parser(
        "all",
        AllConfig,
        "Basis, training of the linear model, and a table: full against linear against no offsets, quality "
        "next to speed. Run it again to go on after an interruption. Example: rome distill all --checkpoint "
        "runs/full/a/checkpoints/best.ckpt --data data/mine --output runs/linear/a",
    )
    return distill_all(_parse(parser, argv, AllConfig))


def _transfer(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="rome distill transfer",
        description="Carry a basis to another head model by registering the two templates; an approximation.",
    )
    parser.add_argument("basis", type=Path, help="Basis of `rome distill basis`.")
    parser.add_argument(
        "--source", default="open", help="Its head: open (default), or a FLAME generic_model.pkl."
    )
    parser.add_argument(
        "--target", required=True, help="Head that is to get it: open, or a generic_model.pkl."
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="Basis to write (.safetensors).")
    args = parser.parse_args(argv)
    from rome_lightning.distillation.figures import components_figure
    from rome_lightning.distillation.fitting import beside
    from rome_lightning.distillation.transfer import transfer_basis
    from rome_lightning.head import load_head
    from rome_lightning.models import LinearBasis

    target = load_head(args.target)
    carried = transfer_basis(LinearBasis.load(args.basis), load_head(args.source), target)
    carried.save(args.output)
    picture = beside(args.output, "_components.png")
    components_figure(carried, target).savefig(picture, dpi=120)
    print(f"{args.output}: basis of {carried.head}; look at {picture}")
    return 0


def _join(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
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


def _parse(parser: ArgumentParser, argv: list[str], config: type[Options]) -> Options:
    options = parser.parse_args(["--output" if argument == "-o" else argument for argument in argv])
    parsed = config(**{name: options[name] for name in config.__dataclass_fields__})  # type: ignore[attr-defined]
    for name in ("checkpoint", "data", "output"):
        if getattr(parsed, name) is None:
            parser.error(f"--{name} is required")
    return parsed


def make_basis(config: BasisConfig) -> bool:
    """Collect offsets and fit the basis.

    Returns:
        Whether the basis was written; not if other parts are still to be collected.
    """
    from rome_lightning.distillation import OffsetStore, fit_basis
    from rome_lightning.distillation.collect import file_digest
    from rome_lightning.distillation.fitting import beside, targets_of
    from rome_lightning.models.checkpoint import load_avatar, read_checkpoint

    assert config.checkpoint is not None
    assert config.data is not None
    assert config.output is not None
    part = _part(config.part)
    if config.output.suffix != ".safetensors":
        raise ValueError(f"the basis is a .safetensors file, got --output {config.output}")
    image_size = int(read_checkpoint(config.checkpoint)["image_size"])
    model = load_avatar(config.checkpoint).to(config.device)
    splits = _splits(config, image_size)
    spec = {
        "checkpoint": file_digest(config.checkpoint),
        "data": next(iter(splits.values())).hash,
        "sources_per_clip": config.sources_per_clip,
        "refine_steps": config.refine_steps,
    }
    store = OffsetStore(beside(config.output, "_offsets"), spec)
    complete = _collect(config, model, splits, store, image_size, part)
    if not complete:
        print(f"part {config.part} is done; run without --part when all are", file=sys.stderr)
        return False
    head = model.head.cpu()
    held_out = config.held_out_split if config.held_out_split in splits else None
    provenance = {**spec, "checkpoint_file": str(config.checkpoint), "code": _code()}
    fit = fit_basis(store, head, config.hair, config.neck, provenance, config.train_split, held_out)
    fit.basis.save(config.output)
    targets = targets_of(store, fit.basis, head, tuple(splits))
    targets.save(beside(config.output, "_coefficients.safetensors"), fit.basis)
    _describe(config.output, fit, head)
    return True


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--part must be I/N with 0 <= I < N, such as 0/4, got {text!r}")
    return int(index), int(count)


def _splits(config: BasisConfig, image_size: int) -> dict[str, Any]:
    """Clips of the training split and, if there is one, of the held-out split."""
    from datamodules.evaluation import StoredClips
    from datamodules.manifest import Manifest

    assert config.data is not None
    known = {shard.split for shard in Manifest.load(config.data).shards}
    wanted = [config.train_split]
    if config.held_out_split in known and config.held_out_split != config.train_split:
        wanted.append(config.held_out_split)
    return {split: StoredClips(config.data, split, image_size) for split in wanted}


def _collect(
    config: BasisConfig,
    model: AvatarModel,
    splits: dict[str, Any],
    store: Any,
    image_size: int,
    part: tuple[int, int],
) -> bool:
    """Fill the store; returns whether it is complete."""
    from rome_lightning.distillation import collect

    for split, clips in splits.items():
        steps = collect(
            model,
            clips,
            store,
            split,
            image_size=image_size,
            sources_per_clip=config.sources_per_clip,
            refine_steps=config.refine_steps,
            part=part,
            device=config.device,
        )
        for _ in _progress(steps, f"offsets of {split}"):
            pass
    return part[1] == 1


def _progress(steps: Iterator[tuple[int, int]], description: str) -> Iterator[tuple[int, int]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(description, total=None)
        for done, total in steps:
            shown.update(task, completed=done, total=total)
            yield done, total


def _code() -> dict[str, Any]:
    from rome_lightning.callbacks import code_and_versions

    return dict(code_and_versions())


def _describe(output: Path, fit: Any, head: Any) -> None:
    """Curves and pictures beside the basis, and a summary on the screen."""
    from rome_lightning.distillation.figures import components_figure, curves_csv, curves_figure
    from rome_lightning.distillation.fitting import beside

    beside(output, "_curves.csv").write_text(curves_csv(fit), encoding="utf-8")
    curves_figure(fit).savefig(beside(output, "_curves.png"), dpi=120)
    components_figure(fit.basis, head).savefig(beside(output, "_components.png"), dpi=120)
    for name, curve in fit.curves.items():
        held_out = "" if curve.held_out_mm is None else f", {curve.held_out_mm[-1]:.2f} mm on other people"
        print(
            f"{name}: {len(curve.explained)} components of {fit.num_sources} sources keep "
            f"{100 * curve.explained[-1]:.1f} % of the variance; error {curve.error_mm[-1]:.2f} mm of "
            f"{curve.error_mm[0]:.2f} mm{held_out}"
        )
    print(f"{output}; look at {beside(output, '_components.png')}")
