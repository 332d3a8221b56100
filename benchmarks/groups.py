"""How well a model does for each group of people in open-faces, people of its training apart from others.

``python benchmarks/groups.py DATA --checkpoint NAME --output DIR [--london-info FILE]``

``DATA`` holds the datasets ``london``, ``interfaces`` and ``congress`` (docs/data.md); only those there are
scored, under the protocol ``open_faces``. Glasses, beards, hair and headwear were labelled by eye
(``open_faces_groups``); gender of the congress set is that of the members' official biographies. Age, gender
and ethnicity of the London set come from its authors: ``london_info.csv``, see docs/open_faces.md. Writes
``groups.md``; the reports of each set and split lie beside it. Run it again to resume.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from datamodules.manifest import Manifest
from rome_lightning.assets.experiments import find_experiment
from rome_lightning.evaluation.groups import groups_tables
from rome_lightning.evaluation.page import number
from rome_lightning.media.atomic import write_atomic
from rome_lightning.workflows.evaluation import evaluate
from rome_lightning.workflows.options import EvaluateConfig

LABELS = Path(__file__).with_name("open_faces_groups")
SETS = {"london": ("val", "train"), "congress": ("val",), "interfaces": ("val", "train")}
"""Splits of each set that have labels."""
SHOWN = {
    "own": ("psnr/full", "lpips_alex/full"),
    "other_photo": ("psnr/head", "lpips_alex/full", "lpips_alex/mouth", "lpips_alex/eyes", "csim_sface"),
    "cross": ("csim_sface", "aed_expression_mediapipe", "apd_rotation_deg"),
}


def age_range(age: str) -> str:
    """Ranges that hold enough people of the London set."""
    if not age.isdecimal():
        return ""
    return "18-24" if int(age) < 25 else "25-29" if int(age) < 30 else "30 and over"


def table_of(name: str, folder: Path, london_info: Path | None) -> Path:
    """The table of groups of a set; the London set's joined with what its authors state."""
    labels = LABELS / f"{name}.csv"
    if name != "london" or london_info is None:
        return labels
    with london_info.open(encoding="utf-8", newline="") as file:
        stated = {f"london-{row['face_id']}": row for row in csv.DictReader(file)}
    lines = ["identity,age,gender,ethnicity,beard,hair"]
    with labels.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            person = stated[row["identity"]]
            facts = age_range(person["face_age"]), person["face_gender"], person["face_eth"].replace("_", " ")
            lines.append(",".join([row["identity"], *facts, row["beard"], row["hair"]]))
    path = folder / "london_groups.csv"
    write_atomic(path, "\n".join([*lines, ""]))
    return path


def of_interest(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with the metrics of ``SHOWN`` only."""

    def chosen(metrics: dict[str, Any]) -> dict[str, Any]:
        return {
            task: {name: of_task[name] for name in SHOWN[task] if name in of_task}
            for task, of_task in metrics.items()
        }

    groups = {
        column: {name: {**group, "metrics": chosen(group["metrics"])} for name, group in of_column.items()}
        for column, of_column in summary["groups"].items()
    }
    return {"metrics": chosen(summary["metrics"]), "groups": groups}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the datasets")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--london-info", type=Path)
    options = parser.parse_args()
    parts = [f"# Scores of {options.checkpoint} by group"]
    for name, splits in SETS.items():
        data = options.data / name
        if not (data / "manifest.json").is_file():
            continue
        table = table_of(name, options.output, options.london_info)
        for split in splits:
            config = EvaluateConfig(
                protocol=find_experiment("open_faces", "protocols"),
                checkpoint=options.checkpoint,
                data=data,
                split=split,
                groups=table,
                output=options.output / f"{name}-{split}",
            )
            scores = evaluate(config)
            assert scores is not None
            kind = "people of the training" if split == "train" else "people held out from training"
            parts.append(f"## {Manifest.load(data).dataset}, {kind}")
            tables = groups_tables(of_interest(scores.summary), number)
            parts += [shown.as_markdown() for shown in tables.values()]
            write_atomic(options.output / "groups.md", "\n\n".join(parts) + "\n")
            print(f"{options.output / 'groups.md'}: {name}, {split}", flush=True)


if __name__ == "__main__":
    main()
