"""The list of photographs, and fetching them from clones and URLs."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from rome_lightning.assets import open_faces as module
from rome_lightning.assets.archives import SourceError
from rome_lightning.assets.open_faces import Photograph, fetch_photographs, open_faces
from rome_lightning.assets.transport import Transport
from rome_lightning.cli.main import main as rome


def test_the_list() -> None:
    photographs = open_faces()
    assert len(photographs) == 926
    assert Counter(p.group for p in photographs) == {
        "congress": 643,
        "london": 164,
        "canada": 40,
        "interfaces": 79,
    }
    assert len({p.identity for p in photographs}) == 844
    assert len({p.file for p in photographs}) == len({p.sha256 for p in photographs}) == 926
    assert photographs[-1].address.startswith("https://raw.githubusercontent.com/")
    assert all(" " not in p.address and p.commit in p.address for p in photographs)
    # No person is in two sets, because sets may be in different splits.
    assert len({(p.group, p.identity) for p in photographs}) == 844


def photograph(name: str, content: bytes, commit: str = "0" * 40) -> Photograph:
    digest = hashlib.sha256(content).hexdigest()
    return Photograph(
        "london", "london-1", "some/stim", commit, f"a b/{name}", digest, len(content), "CC BY 4.0"
    )


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("place", ["some+stim", "stim", "some+stim/repo"])
def test_from_a_clone_with_tables_and_credits(tmp_path: Path, place: str) -> None:
    clone = tmp_path / "clones" / place
    (clone / "a b").mkdir(parents=True)
    (clone / "a b/1.jpg").write_bytes(b"one")
    (clone / "a b/2.jpg").write_bytes(b"two")
    git(clone, "init", "-q")
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "x")
    commit = git(clone, "rev-parse", "HEAD")
    wanted = [photograph("1.jpg", b"one", commit), photograph("2.jpg", b"other", commit)]
    wanted.append(photograph("3.jpg", b"three", commit))
    output = tmp_path / "out"
    failed = fetch_photographs(wanted, output, tmp_path / "clones", log=str)
    assert (output / "london/london-1/1.jpg").read_bytes() == b"one"
    assert [line.split(":")[0] for line in failed] == ["london/london-1/2.jpg", "london/london-1/3.jpg"]
    assert "sha256 differs" in failed[0]
    with (output / "london.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["path", "identity"], ["london/london-1/1.jpg", "london-1"]]
    assert (output / "identities.csv").read_bytes() == (output / "london.csv").read_bytes()
    assert "CC BY 4.0" in (output / "CREDITS.md").read_text()
    assert f"https://github.com/some/stim/tree/{commit}" in (output / "CREDITS.md").read_text()
    assert sorted(p.name for p in output.rglob("*.jpg")) == ["1.jpg"]
    assert list(output.rglob("*.tmp")) == []


class FakeTransport(Transport):
    """Returns the content registered for a URL, and fails the first time."""

    def __init__(self, contents: dict[str, bytes], failures: int) -> None:
        super().__init__()
        self.contents, self.failures, self.asked = contents, failures, 0

    def fetch_address(self, address: str, target: Path, num_bytes: int | None, quiet: bool = False) -> None:
        self.asked += 1
        if self.failures > 0:
            self.failures -= 1
            raise SourceError("HTTP 503")
        target.write_bytes(self.contents[address])


def test_from_the_web_it_tries_again_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_S", 0.0)
    one = photograph("1.jpg", b"one")
    transport = FakeTransport({one.address: b"one"}, failures=2)
    assert fetch_photographs([one], tmp_path, log=str, transport=transport) == []
    assert transport.asked == 3
    # Existing files are not fetched again; damaged ones are.
    assert fetch_photographs([one], tmp_path, log=str, transport=transport) == []
    assert transport.asked == 3
    (tmp_path / one.file).write_bytes(b"eno")
    assert fetch_photographs([one], tmp_path, log=str, transport=transport) == []
    assert transport.asked == 4
    gone = dataclasses.replace(one, path="x/gone.jpg")
    transport.failures = 3
    assert fetch_photographs([gone], tmp_path, log=str, transport=transport) == [
        "london/london-1/gone.jpg: HTTP 503"
    ]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rome(["assets", "fetch", "open-faces"]) == 2
    assert "--output FOLDER" in capsys.readouterr().err
    (tmp_path / "clones").mkdir()
    command = ["assets", "fetch", "open-faces", "--output", str(tmp_path / "o")]
    assert rome([*command, "--from-clones", str(tmp_path / "clones")]) == 1
    told = capsys.readouterr().err
    assert "no clone of jforms/images" in told
    assert "926 photographs could not be fetched" in told
