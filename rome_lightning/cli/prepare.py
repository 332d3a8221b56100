"""``rome prepare``: videos to tracked, sharded training data."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings


def _parser() -> ArgumentParser:
    from datamodules.prepare.config import PrepareConfig

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="rome prepare",
        exit_on_error=False,
        description="Track the person in each video, crop, check and cut it, and write shards, manifest.json "
        "and report.html. Run it again to go on after an interruption. Example: rome prepare clips/ "
        "--output data/mine --config experiments/data/prepare.yaml",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options.")
    parser.add_argument("videos", nargs="*", type=Path, help="Video files, or folders of them.")
    parser.add_argument("--output", type=Path, help="Folder of the dataset; created if needed. Required.")
    parser.add_argument(
        "--identities",
        type=dict[str, str],
        default={},
        help="Person by video name without suffix, as YAML or JSON; a video that is not listed is a person "
        "of its own. No person is ever in two splits.",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="End with exit code 1 if any video failed, not only if all did.",
    )
    parser.add_class_arguments(PrepareConfig, None)
    return parser


def main(argv: list[str]) -> int:
    """Run ``rome prepare``.

    Args:
        argv: arguments after ``rome prepare``.

    Returns:
        0 if a dataset was made (videos that failed are listed; with ``--strict`` they give 1).
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.videos:
        parser.error("which videos? give files or folders")
    if options.output is None:
        parser.error("where to? give --output DIR")
    # Heavy imports only now, so that --help and usage errors answer at once.
    from datamodules.prepare import PrepareConfig, prepare

    config = PrepareConfig(**{name: options[name] for name in PrepareConfig.__dataclass_fields__})
    manifest = prepare(options.videos, options.output, config, options.identities)
    frames = sum(shard.frames for shard in manifest.shards)
    clips = sum(shard.clips for shard in manifest.shards)
    print(f"{options.output / 'manifest.json'}: {clips} clips, {frames} frames, dataset {manifest.hash[:12]}")
    print(f"look at {options.output / 'report.html'}")
    for item in manifest.failed:
        print(f"rome: warning: {item['input']} was not used: {item['reason']}", file=sys.stderr)
    return 1 if manifest.failed and options.strict else 0
