"""``rome compare``: which configuration is better, by how much, and how certain that is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from rome_lightning.cli.config_parsing import HintingParser, config_parser
from rome_lightning.cli.progress import shown
from rome_lightning.media.atomic import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from rome_lightning.comparison.comparing import Comparison
    from rome_lightning.comparison.page import Truth
    from rome_lightning.comparison.runs import Configuration, Run

TRAINING = "training"
"""Pseudo-protocol: the validation metrics of training."""


def _parser() -> HintingParser:
    from rome_lightning.comparison.judging import CompareOptions

    parser = config_parser(
        "rome compare",
        "Compare run folders pair by pair: differences to a baseline with intervals, differing "
        "settings, frames side by side. Runs that differ only in their seed are pooled. The runs must have "
        "been evaluated (`rome evaluate`) under one protocol. Example: rome compare runs/full/base-* "
        "runs/full/no_hair-* --baseline base --output comparison.html --format html. See docs/comparison.md.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=str,
        help="Run folders, W&B's offline-run-* too; with --wandb names or ids of runs.",
    )
    parser.add_argument(
        "--baseline",
        type=str,
        default=None,
        help="Run folder or configuration to compare with (default: the first).",
    )
    parser.add_argument(
        "--protocol",
        type=str,
        default=None,
        help="Name of the protocol; needed if the runs have several. 'training' compares validation "
        "metrics of the training runs instead: no pairs, hence no verdict.",
    )
    parser.add_argument(
        "--format",
        type=Literal["table", "md", "latex", "csv", "html"],
        default="table",
        help="Output format; 'html' is a page with images and needs --output.",
    )
    parser.add_argument("--output", type=Path, default=None, help="File to write instead of the terminal.")
    parser.add_argument(
        "--data", type=Path, default=None, help="The evaluated dataset; adds real frames to the page."
    )
    parser.add_argument(
        "--separate_seeds", action="store_true", help="Do not pool runs that differ only in their seed."
    )
    parser.add_argument(
        "--metrics",
        nargs="*",
        type=str,
        default=[],
        help="Metrics to show, such as psnr/full or self/psnr/full, or the beginning of either (default: "
        "all).",
    )
    parser.add_argument(
        "--wandb", type=str, default=None, help="ENTITY/PROJECT: fetch the runs from Weights & Biases."
    )
    parser.add_argument(
        "--sweep",
        type=Path,
        default=None,
        help="Folder of `rome sweep`: rank its trials and settings instead.",
    )
    parser.add_class_arguments(CompareOptions, None, skip={"metrics"})
    return parser


def main(argv: list[str]) -> int:
    """Run ``rome compare``.

    Args:
        argv: arguments after ``rome compare``.

    Returns:
        0 if the comparison was made, whatever its result.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.format == "html" and options.output is None:
        parser.error("an HTML page needs --output FILE.html")
    if options.sweep is not None:
        if options.runs:
            parser.error("--sweep ranks a whole sweep; give either run folders or --sweep")
        return _rank(options)
    runs = _fetched(options) if options.wandb else _read(options.runs)
    if len(runs) < 2:
        parser.error("nothing to compare; give at least two run folders")
    if options.protocol == TRAINING:
        from rome_lightning.comparison.training_metrics import training_table

        table = training_table(_configurations(runs, options), options.metrics)
        text = table.as_markdown() if options.format == "md" else f"{table.as_text()}\n{table.caption}"
        return _write(options, text + "\n")
    with shown("comparing"):
        comparison = _compare(runs, options)
    if options.format == "html":
        return _write_page(options, comparison)
    from rome_lightning.comparison.tables import render

    return _write(options, render(comparison, options.format))


def _read(paths: Sequence[str]) -> list[Run]:
    from rome_lightning.comparison.wandb_runs import open_run

    return [open_run(Path(path)) for path in paths]


def _fetched(options: Namespace) -> list[Run]:
    from rome_lightning.comparison.wandb_runs import fetch_runs

    return fetch_runs(options.wandb, options.runs)


def _configurations(runs: Sequence[Run], options: Namespace) -> list[Configuration]:
    from rome_lightning.comparison.runs import Configuration, pool_seeds

    if options.separate_seeds:
        return [Configuration(run.name, (run,)) for run in runs]
    for run in runs:
        if run.config and not run.is_known:
            print(
                f"rome: warning: {run.name} does not record its seed: it is pooled with no other run",
                file=sys.stderr,
            )
    return pool_seeds(runs)


def _compare(runs: Sequence[Run], options: Namespace) -> Comparison:
    from rome_lightning.comparison.comparing import common_protocol, compare
    from rome_lightning.comparison.judging import CompareOptions

    configurations = _configurations(runs, options)
    protocol = options.protocol or common_protocol(runs)
    chosen = CompareOptions(**{name: options[name] for name in CompareOptions.__dataclass_fields__})
    return compare(configurations, protocol, _baseline(configurations, options.baseline), chosen)


def _baseline(configurations: Sequence[Configuration], name: str | None) -> Configuration:
    """The configuration of that name, or that has a run of that name or folder.

    Raises:
        ValueError: there is none.
    """
    if name is None:
        return configurations[0]
    for configuration in configurations:
        paths = {run.path.resolve() for run in configuration.runs}
        if name == configuration.name or name in {run.name for run in configuration.runs}:
            return configuration
        if Path(name).resolve() in paths:
            return configuration
    known = ", ".join(configuration.name for configuration in configurations)
    raise ValueError(f"no configuration {name!r} for the baseline; there are {known}")


def _write(options: Namespace, text: str) -> int:
    if options.output is None:
        sys.stdout.write(text)
        return 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output, text)
    print(options.output)
    return 0


def _write_page(options: Namespace, comparison: Comparison) -> int:
    from rome_lightning.comparison.page import write_page
    from rome_lightning.comparison.tables import render
    from rome_lightning.media.provenance import code_and_versions

    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_page(options.output, comparison, {"code": code_and_versions()}, _truth(options, comparison))
    sys.stdout.write(render(comparison, "table"))
    print(options.output)
    return 0


def _truth(options: Namespace, comparison: Comparison) -> Truth | None:
    """Look up real frames of the evaluated dataset.

    Raises:
        ValueError: it is another dataset.
    """
    if options.data is None:
        return None
    from datamodules.evaluation import StoredClips
    from datamodules.manifest import Manifest
    from rome_lightning.media.image import to_uint8

    manifest = Manifest.load(options.data)
    scored = comparison.runs[0].evaluation(comparison.protocol).summary["dataset_hash"]
    if manifest.hash != scored:
        raise ValueError(
            f"{options.data} is dataset {manifest.hash[:12]}; the runs were scored on {scored[:12]}"
        )
    splits = sorted({shard.split for shard in manifest.shards})
    stored = [StoredClips(options.data, split, manifest.image_size) for split in splits]
    homes = {clip.key: clips for clips in stored for clip in clips.clips}

    def real_frame(unit: dict[str, str]) -> UInt8[np.ndarray, "h w 3"]:
        clip, _, number = unit["frame"].rpartition("@")
        clip = clip or unit["clip"]
        return to_uint8(homes[clip].frames(clip, [int(number)]).image[0])

    return real_frame


def _rank(options: Namespace) -> int:
    from rome_lightning.sweeps.ranking import rank_sweep, ranking_text, write_ranking

    ranking = rank_sweep(options.sweep)
    if options.format == "html":
        write_ranking(options.output, ranking)
        print(options.output)
        return 0
    return _write(options, ranking_text(ranking, options.format))
