"""``rome prepare``: videos and photographs to tracked, sharded training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datamodules.manifest import Manifest
from rome_lightning.cli.config_parsing import HintingParser, config_parser
from rome_lightning.media.escaping import printable


def _parser() -> HintingParser:
    from datamodules.prepare.config import BuildOptions, PrepareConfig

    parser = config_parser(
        "rome prepare",
        "Track the person in each video or set of photographs, crop, check and cut it, and write "
        "shards, manifest.json and report.html. Run it again to resume after an interruption. Example: "
        "rome prepare clips/ --output data/mine --config data/prepare",
    )
    parser.add_argument(
        "videos",
        nargs="*",
        type=Path,
        help="Videos, photographs, folders of either, or lists: .txt and .tsv with a path or id per line "
        "and, after a tab, the person; .csv with a comma. All photographs of one person become one clip.",
    )
    parser.add_argument(
        "--root",
        type=Path,
        help="Folder that the paths in lists are relative to (default: the list's own folder).",
    )
    parser.add_argument("--output", type=Path, help="Folder of the dataset; created if needed. Required.")
    parser.add_argument(
        "--identities",
        type=dict[str, str],
        default={},
        help="Person by video name without suffix, as YAML or JSON; each unlisted video is a separate "
        "person. No person is ever in two splits.",
    )
    parser.add_argument(
        "--identity_from",
        type=Literal["video", "folder"],
        default="video",
        help="Person in an unlisted video: a separate person, or the first folder below the given one "
        "(VoxCeleb2).",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="Exit with code 1 if any video failed, not only if all failed.",
    )
    parser.add_class_arguments(PrepareConfig, None)
    parser.add_class_arguments(BuildOptions, None)
    return parser


def _splits(manifest: Manifest) -> str:
    """Who is in which split, and what happens if nobody is kept for validation."""
    people = {
        split: sorted({person for shard in manifest.split(split) for person in shard.identities})
        for split in ("train", "val", "test")
    }
    counts = ", ".join(f"{split} {len(names)}" for split, names in people.items() if names)
    if people["val"]:
        named = ", ".join(people["val"][:5]) + (", ..." if len(people["val"]) > 5 else "")
        return f"people: {counts} (val: {named}; --val-identities chooses others without tracking again)"
    if not people["train"]:
        return f"people: {counts}; no training split: score them with `rome evaluate --split test`"
    return (
        f"people: {counts}; no validation split: `rome evaluate` will score the last frames of the "
        f"training clips, unless --val-identities reserves people for it"
    )


def main(argv: list[str]) -> int:
    """Run ``rome prepare``.

    Args:
        argv: arguments after ``rome prepare``.

    Returns:
        0 if a dataset was made (failed videos are listed; with ``--strict`` they give 1).
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.videos:
        parser.error("no videos; give files or folders")
    if options.output is None:
        parser.error("no output folder; give --output DIR")
    # Heavy imports only now, so that --help and usage errors answer at once.
    from datamodules.prepare import BuildOptions, PrepareConfig, prepare

    config, build = (
        kind(**{name: options[name] for name in kind.__dataclass_fields__})
        for kind in (PrepareConfig, BuildOptions)
    )
    manifest = prepare(
        options.videos,
        options.output,
        config,
        options.identities,
        options=build,
        root=options.root,
        identity_from=options.identity_from,
    )
    frames = sum(shard.frames for shard in manifest.shards)
    clips = sum(shard.clips for shard in manifest.shards)
    print(f"{options.output / 'manifest.json'}: {clips} clips, {frames} frames, dataset {manifest.hash[:12]}")
    print(_splits(manifest))
    print(f"look at {options.output / 'report.html'}")
    for item in manifest.failed:
        print(printable(f"rome: warning: {item['input']} was not used: {item['reason']}"), file=sys.stderr)
    return 1 if manifest.failed and options.strict else 0
