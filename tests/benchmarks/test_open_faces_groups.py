"""The labels of open-faces, and the table that the London set's authors complete."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rome_lightning.assets.open_faces import open_faces
from rome_lightning.evaluation.groups import read_groups

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = sorted((BENCHMARKS / "open_faces_groups").glob("*.csv"))


def load():
    spec = importlib.util.spec_from_file_location("groups_benchmark", BENCHMARKS / "groups.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", LABELS, ids=lambda path: path.stem)
def test_labels_are_of_listed_people(path: Path) -> None:
    listed = {photograph.identity for photograph in open_faces() if photograph.group == path.stem}
    assert set(read_groups(path).people) <= listed


def test_ages_of_the_london_set_become_ranges(tmp_path: Path) -> None:
    module = load()
    people = read_groups(module.LABELS / "london.csv").people
    ages = {"london-001": "24", "london-002": "25", "london-003": "41", "london-004": "NA"}
    lines = [f"{p.removeprefix('london-')},{ages.get(p, '29')},female,west_asian" for p in people]
    # The authors' table has people who are not in the list.
    info = tmp_path / "london_info.csv"
    info.write_text("\n".join(["face_id,face_age,face_gender,face_eth", "000,30,male,white", *lines]))
    groups = read_groups(module.table_of("london", tmp_path, info))
    assert groups.people == people
    assert [groups.group_of("age", p) for p in [*ages, "london-005"]] == [
        "18-24",
        "25-29",
        "30 and over",
        "not stated",
        "25-29",
    ]
    assert groups.group_of("ethnicity", "london-001") == "west asian"
    assert groups.group_of("hair", "london-021") == "shaved or bald"
    assert module.table_of("congress", tmp_path, info) == module.LABELS / "congress.csv"


def test_only_chosen_metrics_are_shown() -> None:
    cell = {"mean": 1.0}
    metrics = {"own": {"psnr/full": cell, "ssim/full": cell}, "cross": {"csim_sface": cell}}
    group = {"num_people": 7, "too_few": False, "metrics": metrics}
    chosen = load().of_interest({"metrics": metrics, "groups": {"beard": {"yes": group}}, "bins": {}})
    wanted = {"own": {"psnr/full": cell}, "cross": {"csim_sface": cell}}
    assert chosen == {"metrics": wanted, "groups": {"beard": {"yes": {**group, "metrics": wanted}}}}
