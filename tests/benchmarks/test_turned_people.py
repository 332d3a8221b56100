"""Blind pairs of two versions of the package."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import turned_people as module
from PIL import Image


def test_people_are_unseen_and_each_set_is_there() -> None:
    people = module.unseen_people()
    assert Counter(person.group for person in people) == module.PEOPLE
    assert len({person.identity for person in people}) == len(people)
    # The shipped model was trained on everybody whose hash is 0.1 or more.
    assert "congress-A000014" not in {person.identity for person in people}


def test_the_key_says_where_the_new_version_is(tmp_path: Path) -> None:
    for folder, grey in (("old", 50), ("new", 200)):
        (tmp_path / folder).mkdir()
        for person in "abcdefghijkl":
            Image.new("RGB", (12, 4), (grey,) * 3).save(tmp_path / folder / f"{person}.png")
    # Somebody whom only one version drew.
    Image.new("RGB", (12, 4)).save(tmp_path / "new" / "z.png")
    module.pair(tmp_path / "old", tmp_path / "new", tmp_path / "out", seed=0)
    with (tmp_path / "out" / "key.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["person"] for row in rows] == list("abcdefghijkl")
    assert {row["new version"] for row in rows} == {"top", "bottom"}
    for row in rows:
        picture = np.asarray(Image.open(tmp_path / "out" / f"{row['picture']}.png"))
        upper, lower = picture[:4, 6:], picture[4 + module.GAP :, 6:]
        new, old = (upper, lower) if row["new version"] == "top" else (lower, upper)
        assert (new == 200).all()
        assert (old == 50).all()
    assert not (tmp_path / "out" / "12.png").exists()


def test_folders_without_a_common_person_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no picture of the same person"):
        module.pair(tmp_path, tmp_path, tmp_path / "out", seed=0)
