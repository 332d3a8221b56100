"""The labels of open-faces, and the table that the London set's authors complete."""

from __future__ import annotations

from pathlib import Path

import groups as module
import pytest

from rome_lightning.assets.open_faces import open_faces
from rome_lightning.evaluation.groups import read_groups

LABELS = sorted(module.LABELS.glob("*.csv"))


@pytest.mark.parametrize("path", LABELS, ids=lambda path: path.stem)
def test_labels_are_of_listed_people(path: Path) -> None:
    listed = {photograph.identity for photograph in open_faces() if photograph.group == path.stem}
    assert set(read_groups(path).people) <= listed


def test_ages_of_the_london_set_become_ranges(tmp_path: Path) -> None:
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


def test_the_overview_has_a_row_per_group() -> None:
    def cell(mean: float, people: int, interval: tuple[float, float] | None) -> dict:
        return {"mean": mean, "num_people": people, "interval": interval}

    own = {"psnr/full": cell(30, 8, None), "lpips_alex/full": cell(0.0204, 8, (0.01, 0.03))}
    metrics = {"own": own, "cross": {"csim_sface": cell(0.9, 7, (0.8, 1.0))}}
    few = {
        "own": {"lpips_alex/full": cell(0.05, 2, (-0.3, 0.4))},
        "cross": {"csim_sface": cell(None, 0, None)},
    }
    groups = {"beard": {"yes": {"num_people": 2, "too_few": True, "metrics": few}}}
    table = module.overview({"metrics": metrics, "groups": groups}, "anna's album, held out")
    assert table.columns[2:] == ["own pose, LPIPS", "cross, identity", "cross, expression error"]
    assert table.rows == [
        ["everybody", "8", "0.020 [0.010, 0.030]", "0.900 [0.800, 1.000], n=7", "-"],
        ["beard: yes", "2 (too few)", "0.050", "-", "-"],
    ]
