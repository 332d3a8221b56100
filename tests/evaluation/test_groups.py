"""Scores by group: against pandas and SciPy on the pairs' values, and tables that do not match."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from tiny_protocol import PROTOCOLS, pixels_only

from datamodules.manifest import Manifest
from rome_lightning.cli.main import main
from rome_lightning.evaluation import groups as grouping
from rome_lightning.evaluation.groups import groups_tables, read_groups
from rome_lightning.evaluation.page import number
from rome_lightning.evaluation.pairs import impossible_tasks, pairs_of
from rome_lightning.evaluation.protocol import load_protocol
from rome_lightning.types.clip import ClipInfo

Shrunk = Callable[..., Path]


def people_of(dataset: Path) -> dict[str, list[str]]:
    manifest = Manifest.load(dataset)
    return {
        split: sorted(p for s in manifest.split(split) for p in s.identities) for split in ("train", "val")
    }


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def with_own_pose(content: dict[str, Any]) -> None:
    """Two tasks; in the second, the source keeps its own pose."""
    pixels_only(content)
    own = content["tasks"]["self"]
    content["tasks"]["own"] = {"pairs": own["pairs"] | {"frames": "own"}, "metrics": ["psnr/full"]}


def evaluate(protocol: Path, dataset: Path, output: Path, *more: object) -> int:
    fixed = ("--protocol", protocol, "--baseline", "source", "--data", dataset, "--output", output)
    return main(["evaluate", *map(str, (*fixed, *more))])


def test_groups_have_the_means_of_their_people(
    shrunk: Shrunk, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(grouping, "MIN_PEOPLE", 2)
    people = people_of(dataset)
    first, second, third = people["val"]
    (trained,) = people["train"]
    # A byte order mark and a person of another split, as in foreign tables.
    lines = ("\ufeffglasses,identity,beard", f"no,{first},long", f"yes,{second},", f"no,{third},short")
    file = table(tmp_path / "people.csv", "\n".join((*lines, f"no,{trained},short", "")))
    protocol = shrunk("demo", with_own_pose)
    assert evaluate(protocol, dataset, tmp_path / "run", "--groups", file) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "run" / "evaluation" / "demo"
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["groups"]) == ["glasses", "beard"]
    of_glasses = summary["groups"]["glasses"]
    assert {name: (g["num_people"], g["too_few"]) for name, g in of_glasses.items()} == {
        "no": (2, False),
        "yes": (1, True),
    }
    assert list(summary["groups"]["beard"]) == ["long", "short", "not stated"]
    pairs = pd.read_parquet(folder / "pairs.parquet").query("task == 'self'")
    for metric in ("psnr/full", "ssim/masked"):
        of_people = pairs.groupby("identity")[metric].mean()
        cell = of_glasses["no"]["metrics"]["self"][metric]
        mine = of_people[[first, third]]
        interval = ttest_1samp(mine, 0).confidence_interval(0.95)
        assert cell["mean"] == pytest.approx(mine.mean(), rel=1e-6)
        assert cell["interval"] == pytest.approx([interval.low, interval.high], rel=1e-6)
        assert cell["num_people"] == 2
        alone = of_glasses["yes"]["metrics"]["self"][metric]
        assert (alone["mean"], alone["interval"]) == (pytest.approx(of_people[second], rel=1e-6), None)
    rows = list(csv.DictReader((folder / "groups.csv").read_text().splitlines()))
    (row,) = (r for r in rows if (r["group"], r["task"], r["metric"]) == ("no", "self", "psnr/full"))
    cell = of_glasses["no"]["metrics"]["self"]["psnr/full"]
    assert (row["column"], row["people"], row["too_few"]) == ("glasses", "2", "False")
    assert [float(row[n]) for n in ("mean", "low", "high")] == pytest.approx(
        [cell["mean"], *cell["interval"]]
    )
    for shown in (said, (folder / "groups.md").read_text(), (folder / "report.html").read_text()):
        assert "yes: 1 (too few)" in shown
        assert "everybody: 3" in shown
        assert number("psnr/full", cell["mean"]) in shown
    metrics = summary["metrics"]
    # Aggregation only: no pair is scored again, and without a table no trace of it remains.
    kept = {path: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    assert evaluate(protocol, dataset, tmp_path / "run") == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["groups"], summary["metrics"]) == ({}, metrics)
    assert not [name for name in grouping.FILES if (folder / name).exists()]
    assert kept == {path: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}


def summary_with(
    cells: dict[str, tuple[int, dict[str, Any] | None]], everybody: dict[str, Any]
) -> dict[str, Any]:
    """One column and one metric."""
    of_column = {
        name: {"num_people": n, "too_few": n < 5, "metrics": {"self": {"csim_sface": cell} if cell else {}}}
        for name, (n, cell) in cells.items()
    }
    return {"metrics": {"self": {"csim_sface": everybody}}, "groups": {"hair": of_column}}


def cell(
    mean: float | None, penalised: float | None, people: int, interval: tuple[float, float] | None = None
) -> dict[str, Any]:
    return {"mean": mean, "penalised": penalised, "num_people": people, "interval": interval}


def test_failures_of_one_group_are_not_hidden_in_its_mean() -> None:
    """The mean excludes two people in whose images no face was found."""
    summary = summary_with(
        {
            "long": (8, cell(0.9, 0.675, 6, (0.85, 0.95))),
            "none": (3, cell(0.8, 0.8, 3, (0.2, 1.4))),
            "odd": (1, None),
        },
        cell(0.867, 0.717, 9, (0.8, 0.93)),
    )
    # If every mouth is closed, there is no row for it.
    summary["metrics"]["own"] = {"psnr/mouth": cell(None, None, 0)}
    shown = groups_tables(summary, number)["hair"]
    assert shown.columns == ["hair", "long: 8", "none: 3 (too few)", "odd: 1 (too few)", "everybody: 12"]
    assert shown.rows == [
        ["self: csim_sface", "0.900 [0.850, 0.950], n=6", "0.800", "-", "0.867 [0.800, 0.930], n=9"],
        ["self: csim_sface, penalised", "0.675", "0.800", "-", "0.717"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name one column 'identity'"),
        ("identity\nanna\n", "at least one column of groups"),
        ("person,age\nanna,30\n", "got 'person,age'"),
        ("identity,age,age\nanna,30,31\n", "each once"),
        ("identity,identity,age\nanna,bob,31\n", "each once"),
        ("identity,age\n", "lists nobody"),
        ("identity,age\nanna,30\n\nanna,31\n", "line 4: 'anna' is listed twice"),
        ("identity,age\n,30\n", "line 2: the identity is empty"),
        ("identity,age\nanna,30,tall\n", "line 2: 3 cells, the heading has 2"),
    ],
)
def test_other_files_than_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_groups(table(tmp_path / "people.csv", text))
    (tmp_path / "people.csv").write_bytes(b"identity,\xff\n")
    with pytest.raises(ValueError, match="not a CSV table in UTF-8"):
        read_groups(tmp_path / "people.csv")
    with pytest.raises(FileNotFoundError, match="no table of groups at"):
        read_groups(tmp_path / "absent.csv")


def test_tables_of_other_people_are_refused_before_anything_is_scored(
    shrunk: Shrunk, dataset: Path, tmp_path: Path, capsys: Any
) -> None:
    people = people_of(dataset)
    anna = table(tmp_path / "people.csv", f"identity,age\nanna,30\n{people['val'][0]},40\n")
    protocol = shrunk("demo", pixels_only)
    assert evaluate(protocol, dataset, tmp_path / "run", "--groups", anna) != 0
    said = capsys.readouterr().err
    assert "lists 1 of 2 people who are in no split of the data: anna; correct or delete" in said
    nobody = table(tmp_path / "people.csv", f"identity,age\n{people['train'][0]},40\n")
    assert evaluate(protocol, dataset, tmp_path / "run", "--groups", nobody) != 0
    assert "lists none of the 3 people who are scored" in capsys.readouterr().err
    assert not (tmp_path / "run" / "evaluation" / "demo" / "parts").exists()


def test_people_whose_pictures_were_refused_may_be_listed(
    shrunk: Shrunk, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    failed = [{"input": "london/anna/1.jpg", "kind": "unusable", "reason": "no face found"}]
    dataclasses.replace(Manifest.load(dataset), failed=failed).save(copy / "manifest.json")
    text = f"identity,age\nanna,30\n{people_of(dataset)['val'][0]},40\n"
    file = table(tmp_path / "people.csv", text)
    assert evaluate(shrunk("demo", pixels_only), copy, tmp_path / "run", "--groups", file) == 0


def test_single_photographs_have_no_pairs_of_one_person() -> None:
    path = PROTOCOLS / "open_faces.yaml"
    protocol = load_protocol(path)
    single = [ClipInfo("a-0", "anna", (0,), 0), ClipInfo("b-0", "bob", (3,), 3)]
    assert list(impossible_tasks(protocol, single)) == ["other_photo"]
    chosen = [(p.task, p.clip, p.source, p.driver_clip, p.frame) for p in pairs_of(protocol, path, single)]
    assert chosen == [
        ("own", "a-0", 0, "a-0", 0),
        ("own", "b-0", 3, "b-0", 3),
        ("cross", "a-0", 0, "b-0", 3),
        ("cross", "b-0", 3, "a-0", 0),
    ]
    several = [ClipInfo("a-0", "anna", (0, 1), 1), *single[1:]]
    assert not impossible_tasks(protocol, several)
    chosen = [(p.task, p.clip, p.source, p.frame) for p in pairs_of(protocol, path, several)]
    assert chosen[:3] == [("own", "a-0", 0, 0), ("own", "b-0", 3, 3), ("other_photo", "a-0", 0, 1)]
