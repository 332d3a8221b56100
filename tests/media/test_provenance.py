"""Which code made a file: a clone has a commit, an installed package has none."""

import subprocess
from pathlib import Path

import pytest

import rome_lightning
from rome_lightning.media.provenance import git_commit


@pytest.fixture(autouse=True)
def fresh():
    git_commit.cache_clear()
    yield
    git_commit.cache_clear()


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a folder of a new repository with one commit, not yet part of it."""
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    package = tmp_path / "site" / "rome_lightning" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    monkeypatch.setattr(rome_lightning, "__file__", str(package))
    return package


def test_a_clone_has_a_commit_and_says_if_it_was_changed(package: Path, tmp_path: Path) -> None:
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "second")
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 12
    package.write_text("changed = True\n")
    git_commit.cache_clear()
    assert git_commit() == f"{commit}-dirty"


def test_a_package_installed_in_somebody_elses_clone_has_none(package: Path) -> None:
    assert git_commit() is None


def test_no_git_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None
