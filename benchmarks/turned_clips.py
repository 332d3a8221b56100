"""Scores of a model on clips of turning heads, as in the card of the shipped model.

``python benchmarks/turned_clips.py CLONE OUT [--checkpoint NAME]``

CLONE is a clone of https://github.com/KwaiVGI/LivePortrait (commit 1986663), whose example clips of 17 people
are listed, with their SHA-256 sums, in ``turned_clips.csv``. They are in no training set. Their terms are
those of that repository: use them for measurements only. The script tracks the clips, scores the model (from
photographs of 512 and of 256 pixels), the spline and the source copied unchanged under the protocol
``turned``, and writes ``turned.md``. Run it again to resume; it takes about twelve minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli import prepare
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.digest import file_sha256
from rome_lightning.report.page import Table
from rome_lightning.workflows.evaluation import evaluate
from rome_lightning.workflows.options import EvaluateConfig

CLIPS = Path(__file__).with_name("turned_clips.csv")
TASKS = {
    "turn_0_10": "0 to 10 degrees",
    "turn_10_20": "10 to 20 degrees",
    "turn_20_35": "20 to 35 degrees",
    "own": "own pose",
}
SHOWN = {"psnr/full": 2, "lpips_alex/full": 3, "csim_sface": 3}
"""Metrics, and digits."""
OTHERS = {"open_mouth": "lpips_alex/mouth", "closed_lids": "lpips_alex/eyes"}
PHOTO_SIZE = 512
"""Of the photographs that avatars and the spline start from, as `rome avatar create` keeps them, and of what
they draw; scored is the half of it."""
PREPARE = (
    "--image-size",
    str(PHOTO_SIZE),
    "--fps",
    "6",
    "--frames-per-clip",
    "100",
    "--min-confidence",
    "0.3",
)
"""Options of ``rome prepare``; the pictures were chosen with these."""


def checked_clips(clone: Path) -> list[Path]:
    """The listed clips of a clone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is not the listed one.
    """
    with CLIPS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if file_sha256(clone / row["path"]) != row["sha256"]:
            raise ValueError(f"{clone / row['path']} is not the clip that was scored: its SHA-256 differs")
    return [clone / row["path"] for row in rows]


def dataset(clips: list[Path], folder: Path) -> Path:
    """The tracked clips; nobody in them is for training. Finished shards of this tracker are kept."""
    listed = folder.with_suffix(".txt")
    write_atomic(listed, "".join(f"{clip.resolve()}\n" for clip in clips))
    terms = "files of a public repository, for measurements only"
    names = ["--dataset", "turned-clips", "--licence", terms, "--test-ratio", "1"]
    if prepare.main([str(listed), "--output", str(folder), *PREPARE, *names]):
        raise RuntimeError(f"the clips could not be prepared, see {folder / 'report.html'}")
    return folder


def scores_of(summaries: dict[str, dict[str, Any]]) -> Table:
    """Means over people of each system: a row per range of rotation, mouths and lids.

    Args:
        summaries: ``summary.json`` of each system, by its name.
    """
    rows = []
    for task, label in TASKS.items():
        row = [label]
        for summary in summaries.values():
            metrics = summary["metrics"][task]
            row.append(" / ".join(f"{metrics[name]['mean']:.{digits}f}" for name, digits in SHOWN.items()))
        rows.append(row)
    for task, name in OTHERS.items():
        values = [f"{summary['metrics'][task][name]['mean']:.3f}" for summary in summaries.values()]
        rows.append([f"{task.replace('_', ' ')}, {name}", *values])
    return Table([" / ".join(SHOWN), *summaries], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("open-1"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    data = dataset(checked_clips(options.clone), options.output / "data")
    protocol = find_experiment("turned", "protocols")
    summaries = {}
    model: dict[str, Any] = {"checkpoint": options.checkpoint}
    systems: dict[str, dict[str, Any]] = {
        str(options.checkpoint): {**model, "photo_size": PHOTO_SIZE},
        f"{options.checkpoint}, 256 px": model,
        "spline": {"baseline": "warp", "photo_size": PHOTO_SIZE},
        "source": {"baseline": "source"},
    }
    for name, system in systems.items():
        output = options.output / name.replace(", ", "-").replace(" ", "")
        scores = evaluate(EvaluateConfig(protocol=protocol, data=data, split="test", output=output, **system))
        assert scores is not None
        summaries[name] = scores.summary
    table = scores_of(summaries).as_markdown()
    write_atomic(options.output / "turned.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()
