"""Scores of a model for each group of people in open-faces; training identities have their own rows.

``python benchmarks/groups.py DATA --checkpoint NAME --output DIR [--london-info FILE]``

``DATA`` holds the datasets ``london``, ``interfaces`` and ``congress`` (docs/data.md); only existing ones are
scored, under the protocol ``open_faces``. Glasses, beards, hair and headwear were labelled by eye
(``open_faces_groups``), gender of the congress set from what is publicly known of the members. Age, gender
and ethnicity of the London set come from its authors: ``london_info.csv``, see docs/open_faces.md. Writes
``groups.md``, an overview; each set and split has a folder beside it with all metrics. Run it again to
resume.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.evaluation.groups import MIN_PEOPLE, aggregate_cell
from rome_lightning.evaluation.page import number
from rome_lightning.media.atomic import write_atomic
from rome_lightning.report.page import Table
from rome_lightning.workflows.evaluation import evaluate
from rome_lightning.workflows.options import EvaluateConfig

LABELS = Path(__file__).with_name("open_faces_groups")
SETS = {"london": ("val", "train"), "congress": ("val",), "interfaces": ("val", "train")}
"""Splits of each set that have labels."""
SHOWN = (
    ("own", "lpips_alex/full", "own pose, LPIPS"),
    ("other_photo", "lpips_alex/full", "other photo, LPIPS"),
    ("other_photo", "lpips_alex/eyes", "its eyes"),
    ("other_photo", "csim_sface", "other photo, identity"),
    ("cross", "csim_sface", "cross, identity"),
    ("cross", "aed_expression_mediapipe", "cross, expression error"),
)
"""Task, metric and what the overview calls it."""


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


def overview(summary: dict[str, Any], title: str) -> Table:
    """A row per group with the metrics of ``SHOWN``: means over people with 95 % intervals."""
    shown = [entry for entry in SHOWN if entry[0] in summary["metrics"]]
    everybody = max(cell["num_people"] for cell in summary["metrics"]["own"].values())
    groups = [("everybody", {"num_people": everybody, "metrics": summary["metrics"]})]
    for column, of_column in summary["groups"].items():
        groups += [(f"{column}: {name}", group) for name, group in of_column.items()]
    rows = []
    for name, group in groups:
        few = " (too few)" if group["num_people"] < MIN_PEOPLE else ""
        cells = [
            aggregate_cell(metric, "mean", number)(group, group["metrics"].get(task, {}).get(metric))
            for task, metric, _ in shown
        ]
        rows.append([name, f"{group['num_people']}{few}", *cells])
    return Table([title, "people", *(label for *_, label in shown)], rows)


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
            kind = "trained on" if split == "train" else "held out"
            parts.append(overview(scores.summary, f"{name}, {kind}").as_markdown())
            write_atomic(options.output / "groups.md", "\n\n".join(parts) + "\n")
            print(f"{options.output / 'groups.md'}: {name}, {split}", flush=True)


if __name__ == "__main__":
    main()
