"""``rome shards verify | stats | import``: check, count and import datasets."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.parsing import StrictParser
from rome_lightning.media.escaping import printable
from rome_lightning.media.locks import owned

if TYPE_CHECKING:
    from datamodules.manifest import Manifest, ManifestShard
    from datamodules.remote import RemoteFolder
    from datamodules.verifying import Problem

_TRACKERS = ("deca", "emoca", "smirk", "vhap")
_IMPORTERS = ("frames", "webdataset", "lmdb", *_TRACKERS)


def build_parser() -> StrictParser:
    """Options of the sub-commands."""
    parser = StrictParser(prog="rome shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    verify = commands.add_parser(
        "verify",
        help="Check every byte of a dataset against its checksums.",
        description="Check every byte of a dataset against its checksums; exit code 1 if something is wrong.",
    )
    verify.add_argument("dataset", help="Folder of the dataset, its manifest.json, or an address.")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="Rebuild damaged indices from their shards, and damaged shards from their videos (--videos).",
    )
    verify.add_argument(
        "--videos", type=Path, nargs="+", default=[], help="Files or folders with the videos, for --repair."
    )
    verify.add_argument(
        "--head", default="open", help="Head model of the dataset, for --repair: open (default) or a path."
    )

    stats = commands.add_parser("stats", help="Count clips, frames, people, bytes and rejections.")
    stats.add_argument("dataset", help="Folder of the dataset, its manifest.json, or an address.")

    bring = commands.add_parser(
        "import",
        help="Build a dataset from your own images.",
        description="Build a dataset from images that you cropped from videos; they are tracked as in rome "
        "prepare.",
    )
    bring.add_argument("source", type=Path, help="Folder or file to read.")
    bring.add_argument(
        "--from",
        dest="kind",
        choices=_IMPORTERS,
        required=True,
        help="frames: folders of pictures; webdataset: tars with a picture per sample; lmdb: ROME's or "
        "GAGAvatar's layout; deca, emoca, smirk, vhap: folders of pictures with FLAME parameters, which "
        "replace our tracker's.",
    )
    bring.add_argument(
        "--params",
        type=Path,
        metavar="PATH",
        help="File or folder with those parameters, under the same names as the pictures (default: beside "
        "the "
        "pictures).",
    )
    bring.add_argument(
        "--head", help="Head model: open (default) or the path of FLAME's generic_model.pkl, for parameters."
    )
    bring.add_argument("-o", "--output", type=Path, required=True, help="Folder of the dataset; created.")
    bring.add_argument("--config", type=Path, help="YAML file with options of rome prepare.")
    bring.add_argument(
        "--val-identities",
        nargs="+",
        default=[],
        help="People reserved for validation (default: some, if there are six or more).",
    )
    bring.add_argument(
        "--picture-suffix",
        metavar="SUFFIX",
        help="Suffix of the images to use, such as image.png if there is a mask.png beside it.",
    )
    bring.add_argument("--dataset-name", help="Name of the dataset (default: imported).")
    return parser


def main(argv: list[str]) -> int:
    """Run a sub-command; ``argv`` is what follows ``rome shards``."""
    args = build_parser().parse_args(argv)
    return {"verify": _verify, "stats": _stats, "import": _import}[args.command](args)


def _open(dataset: str) -> tuple[Path, Manifest, RemoteFolder | None]:
    from datamodules.manifest import Manifest
    from datamodules.remote import is_remote, open_remote
    from rome_lightning.assets.resolver import cache_folder

    if is_remote(dataset):
        manifest, remote = open_remote(dataset, cache_folder() / "datasets")
        return remote.cache, manifest, remote
    path = Path(dataset)
    return (path if path.is_dir() else path.parent), Manifest.load(path, check_files=False), None


def _verify(args: argparse.Namespace) -> int:
    from datamodules.verifying import verify, verify_indices

    folder, manifest, remote = _open(args.dataset)
    if remote is not None:
        return _verify_remote(args, manifest, remote)
    found: list[tuple[ManifestShard, list[Problem]]] = []
    for number, (shard, problems) in enumerate(verify(folder, manifest), start=1):
        state = "good" if not problems else "BAD"
        print(f"[{number}/{len(manifest.shards)}] {shard.name}: {state}", file=sys.stderr)
        for problem in problems:
            print(printable(f"{shard.name}: {problem.what}"))
        if problems:
            found.append((shard, problems))
    bad = [entry for entry, problem in verify_indices(folder, manifest) if problem]
    for entry in bad:
        print(f"{entry.name}: the index of split {entry.split} is damaged or missing")
    if not found and not bad:
        print(f"{folder}: {len(manifest.shards)} shards are intact, dataset {manifest.hash[:12]}")
        return 0
    if not args.repair:
        also = f", and {len(bad)} indices of splits" if bad else ""
        print(f"{len(found)} of {len(manifest.shards)} shards are bad{also}; --repair rebuilds them")
        return 1
    return _repair(args, folder, manifest, found)


def _verify_remote(args: argparse.Namespace, manifest: Manifest, remote: RemoteFolder) -> int:
    """Read every file at an address once and compare it with the manifest, without keeping it."""
    import tempfile
    from dataclasses import replace

    if args.repair:
        raise ValueError(
            f"{args.dataset} is not a folder: repair the dataset where its files are, then copy it"
        )
    wanted = [(f"{shard.name}.tar", shard.bytes, shard.sha256) for shard in manifest.shards]
    wanted += [(entry.name, entry.bytes, entry.sha256) for entry in manifest.indices]
    bad = 0
    for number, (name, num_bytes, sha256) in enumerate(wanted, start=1):
        problem = ""
        with tempfile.TemporaryDirectory(prefix="rome-verify-") as folder:
            try:
                replace(remote, cache=Path(folder)).fetch(name, num_bytes, sha256)
            except (OSError, ValueError) as error:
                problem = str(error)
        print(f"[{number}/{len(wanted)}] {name}: {'BAD' if problem else 'good'}", file=sys.stderr)
        if problem:
            bad += 1
            print(printable(f"{name}: {problem}"))
    state = f"{bad} of {len(wanted)} files are bad or missing" if bad else f"{len(wanted)} files are intact"
    print(f"{args.dataset}: {state}, dataset {manifest.hash[:12]}")
    return 1 if bad else 0


def _repair(
    args: argparse.Namespace,
    folder: Path,
    manifest: Manifest,
    found: list[tuple[ManifestShard, list[Problem]]],
) -> int:
    from datamodules.verifying import repair_index, repair_split_index, verify, verify_indices

    damaged = []
    for shard, problems in found:
        if all(problem.index_only for problem in problems):
            repair_index(folder, shard)
            print(f"{shard.name}: index rebuilt")
        else:
            damaged.append(shard)
    failed = []
    if damaged:
        # The tracker and its models, which verifying does not need.
        from datamodules.repairing import rebuild_shards

        failed = rebuild_shards(folder, manifest, damaged, args.videos, _log, args.head)
    for entry, problem in list(verify_indices(folder, manifest)):
        why = repair_split_index(folder, manifest, entry) if problem else ""
        if why:
            failed.append(f"{entry.name}: {why}")
        elif problem:
            print(f"{entry.name}: index of split {entry.split} rebuilt")
    for line in failed:
        print(f"rome: error: {line}", file=sys.stderr)
    left = sum(bool(problems) for _, problems in verify(folder, manifest))
    print(f"{len(found) - left} of {len(found)} bad shards repaired")
    return 1 if left or any(problem for _, problem in verify_indices(folder, manifest)) else 0


def _log(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _stats(args: argparse.Namespace) -> int:
    from datamodules.manifest import SPLITS
    from datamodules.shards import ShardInfo

    folder, manifest, _ = _open(args.dataset)
    head = f"{manifest.head['name']} head" if manifest.head.get("name") else "no head"
    print(
        printable(
            f"{manifest.dataset}: {manifest.image_size} px, {head}, {manifest.schema}, {manifest.hash[:12]}"
        )
    )
    print(f"{'split':<7}{'shards':>8}{'people':>8}{'clips':>8}{'frames':>9}{'MB':>9}{'kB/frame':>10}")
    counts: Counter[str] = Counter()
    for split in SPLITS:
        shards = manifest.split(split)
        if not shards:
            continue
        people = {identity for shard in shards for identity in shard.identities}
        clips, frames = sum(s.clips for s in shards), sum(s.frames for s in shards)
        size = sum(s.bytes for s in shards)
        print(
            f"{split:<7}{len(shards):>8}{len(people):>8}{clips:>8}{frames:>9}{size / 1e6:>9.1f}"
            f"{size / 1e3 / frames:>10.1f}"
        )
        for shard in shards:
            path = folder / f"{shard.name}.json"
            if path.exists():
                counts.update(ShardInfo.load(path).counts)
    for what, count in sorted(counts.items()):
        print(printable(f"{count:>9} {what}"))
    if manifest.failed:
        print(f"{len(manifest.failed)} inputs failed:")
        for item in manifest.failed:
            print(printable(f"          {item['input']}: {item['reason']}"))
    print(printable(f"licence: {manifest.licence or 'not stated'}"))
    return 0


def _import(args: argparse.Namespace) -> int:
    from datamodules.importing import import_dataset, read_config

    config = read_config(args.config, args.dataset_name, args.val_identities, args.head)
    with owned(args.output, "rome shards import"):
        manifest = import_dataset(
            args.kind,
            args.source,
            args.output,
            config,
            _log,
            picture_suffix=args.picture_suffix,
            params=args.params,
        )
    clips, frames = sum(s.clips for s in manifest.shards), sum(s.frames for s in manifest.shards)
    print(f"{args.output / 'manifest.json'}: {clips} clips, {frames} frames, dataset {manifest.hash[:12]}")
    for item in manifest.failed:
        print(printable(f"rome: warning: {item['input']} was not used: {item['reason']}"), file=sys.stderr)
    return 0
