"""`rome prepare` never lists a folder once per video or shard."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from datamodules.prepare import inputs
from datamodules.prepare.inputs import VideoFile, expand_inputs, hash_inputs
from datamodules.prepare.parts import remove_leftovers, remove_parts


def _touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)


def test_ids_of_a_list_read_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"v{number}.part.{number}.mp4" for number in range(20)]
    _touch(tmp_path / "a", *names, "v0.part.0.jpg", "w.webm", "w.jpg", "p.png")
    _touch(tmp_path / "b", "x.mkv", "x.avi")
    lines = [f"a/v{number}.part.{number}" for number in range(20)]
    (tmp_path / "ids.txt").write_text("\n".join([*lines, "a/v3", "a/w", "a/p", "b/x", "b/nothing", "c/x"]))
    read: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: read.append(str(folder)) or listdir(folder))
    found, missing = expand_inputs([tmp_path / "ids.txt"])
    assert [video.name for video in found] == [
        *(f"a/{name}" for name in names), "a/v3.part.3.mp4", "a/w.webm", "a/p.png", "b/x.avi",
    ]  # fmt: skip
    assert [item["input"] for item in missing] == ["b/nothing", "c/x"]
    assert sorted(read) == sorted(set(read))


def test_leftovers_go_with_one_look_at_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(
        tmp_path,
        "one.tar",
        "one.json",
        "one-2.tar",
        ".one.tar.0123456789abcdef.tmp",
        ".other.x.tmp",
        "two.json",
    )
    scanned: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: scanned.append(folder) or scandir(folder))
    remove_leftovers({"one", "two"}, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".other.x.tmp", "one-2.tar", "one.json", "one.tar", "two.json"]
    remove_leftovers({f"n{i}" for i in range(1000)} | {"one"}, tmp_path, whole=True)
    assert len(scanned) == 2
    remove_parts(["two", "absent"], tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".other.x.tmp", "one-2.tar"]
    remove_leftovers({"one"}, tmp_path / "absent")


def test_hashes_are_kept_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "videos", *(f"{number:02d}.mp4" for number in range(30)))
    videos = [VideoFile(path, path.name) for path in sorted((tmp_path / "videos").iterdir())]
    monkeypatch.setattr(inputs, "_SAVE_HASHES_S", 0.0)
    original = inputs.file_sha256

    def killed_in_the_end(path: Path) -> str:
        if path.name == "29.mp4":
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(inputs, "file_sha256", killed_in_the_end)
    with pytest.raises(KeyboardInterrupt):
        hash_inputs(videos, tmp_path)
    assert len(json.loads((tmp_path / ".inputs.json").read_text())) == 29
    monkeypatch.setattr(
        inputs, "file_sha256", lambda path: original(path) if path.name == "29.mp4" else 1 / 0
    )
    hashes, failed = hash_inputs(videos, tmp_path)
    assert (len(hashes), failed) == (30, [])
