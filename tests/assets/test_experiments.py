"""Shipped configurations are found by name from any folder; paths still work."""

from __future__ import annotations

from pathlib import Path

import pytest

from rome_lightning.assets import experiments
from rome_lightning.assets.experiments import copy_experiments, experiment_names, find_experiment, first_line

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("full/base", "", "full/base.yaml"),
        ("full/base.yaml", "", "full/base.yaml"),
        ("rome/paper", "", "rome/paper.yaml"),
        ("experiments/full/base.yaml", "", "full/base.yaml"),
        ("demo", "protocols", "protocols/demo.yaml"),
        ("protocols/demo", "protocols", "protocols/demo.yaml"),
        ("slurm/single_node.sh", "", "slurm/single_node.sh"),
    ],
)
def test_a_name_means_its_file(name, kind, file):
    assert find_experiment(name, kind) == FOLDER / file


def test_every_listed_name_is_found_and_every_configuration_is_listed():
    found = {find_experiment(name) for name in experiment_names()}
    assert found == {path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".sh")}


def test_a_file_of_the_user_wins_over_a_shipped_one(tmp_path):
    (tmp_path / "demo").write_text("mine")
    assert find_experiment("demo", "protocols").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("ful/bas", "", "did you mean full/base"),
        ("full/no_laplacian", "", "ablations/no_laplacian"),
        ("dmeo", "protocols", "did you mean demo"),
        ("zzz", "protocols", "there are demo, "),
        ("zzz", "", "`rome experiments list` shows them"),
        ("full/paper", "", "it is called rome/paper now"),
        ("experiments/full/release.yaml", "", "--config rome/paper --config rome/release"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, kind, hint):
    with pytest.raises(FileNotFoundError, match="there is no file") as error:
        find_experiment(name, kind)
    assert hint in str(error.value)


@pytest.mark.parametrize("name", ["../setup", "/full/base", "full/../../setup.cfg"])
def test_a_name_does_not_leave_the_folder(name):
    with pytest.raises(FileNotFoundError):
        find_experiment(name)


def test_questions_are_those_of_the_files():
    assert first_line("ablations/no_laplacian") in (FOLDER / "ablations/no_laplacian.yaml").read_text()
    assert first_line("slurm/single_node.sh").startswith("One machine")


def test_copies_are_the_same_and_nothing_is_overwritten(tmp_path):
    (copy,) = copy_experiments(["full/base"], tmp_path / "mine")
    assert copy == tmp_path / "mine" / "full" / "base.yaml"
    assert copy.read_bytes() == (FOLDER / "full" / "base.yaml").read_bytes()
    copy.write_text("changed")
    with pytest.raises(FileExistsError, match="exists already"):
        copy_experiments(["full/cpu", "full/base"], tmp_path / "mine")
    assert copy.read_text() == "changed"
    assert not (tmp_path / "mine" / "full" / "cpu.yaml").exists()


def test_an_installation_without_configurations_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "_PACKAGE", tmp_path / "rome_lightning")
    with pytest.raises(FileNotFoundError, match="lacks its configurations"):
        find_experiment("full/base")
