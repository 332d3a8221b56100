"""``rome experiments list | show | copy``: the configurations that ship with the package."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from rome_lightning.assets.experiments import copy_experiments, experiment_names, find_experiment, first_line
from rome_lightning.cli.parsing import StrictParser


def build_parser() -> StrictParser:
    """Options of the sub-commands."""
    parser = StrictParser(
        prog="rome experiments",
        description="Configurations, ablations, protocols, sweeps and job scripts that ship with the "
        "package. Each is found by name from any folder: rome fit --config full/base, rome evaluate "
        "--protocol demo.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | show | copy")
    listing = commands.add_parser("list", help="names, with the question that each answers")
    listing.add_argument("folder", nargs="?", default="", help="only those of a folder, such as ablations")
    show = commands.add_parser("show", help="print a file")
    show.add_argument("name", help="name, such as full/base")
    copy = commands.add_parser("copy", help="copy files to edit them")
    copy.add_argument("names", nargs="*", metavar="NAME", help="names, such as full/base; default: all")
    copy.add_argument(
        "-o", "--output", type=Path, default=Path("experiments"), help="folder (default: experiments)"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run a sub-command; ``argv`` is what follows ``rome experiments``."""
    options = build_parser().parse_args(argv)
    return {"list": _list, "show": _show, "copy": _copy}[options.command](options)


def _list(options: Namespace) -> int:
    prefix = f"{options.folder.strip('/')}/" if options.folder else ""
    names = [name for name in experiment_names() if name.startswith(prefix)]
    if not names:
        folders = sorted({name.split("/")[0] for name in experiment_names()})
        raise ValueError(f"there is no folder {options.folder!r}; there are {', '.join(folders)}")
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {first_line(name)}".rstrip())
    return 0


def _show(options: Namespace) -> int:
    path = find_experiment(options.name)
    print(path, file=sys.stderr)
    sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0


def _copy(options: Namespace) -> int:
    *names, last = options.names or [""]
    if names and Path(last).suffix in (".yaml", ".yml"):
        raise ValueError(
            f"copies keep their names, in a folder: rome experiments copy {' '.join(names)} -o FOLDER"
        )
    for path in copy_experiments(options.names, options.output):
        print(path)
    return 0
