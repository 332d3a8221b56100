"""Names in tars and folders as written by common tools: correct clips and people, or an error."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from datamodules.importing.sources import FrameClip, frame_folders, webdataset_tars
from datamodules.prepare.inputs import expand_inputs, hash_inputs


def picture(level: int, kind: str = "PNG", size: tuple[int, int] = (16, 12), **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(file, kind, **options)
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def two_people(before: str, inner: str = "", suffix: str = "png") -> list[tuple[str, bytes]]:
    return [
        (f"{before}{person}/clip{inner}_{k:03d}.{suffix}", picture(level + k))
        for person, level in (("anna", 0), ("ben", 100))
        for k in range(4)
    ]


def levels(clip: FrameClip) -> list[int]:
    return clip.decode(100)[:, 0, 0, 0].tolist()


def people(clips: list[FrameClip]) -> dict[str, list[int]]:
    return {clip.identity: levels(clip) for clip in clips}


@pytest.mark.parametrize("before", ["", "./", "/", ".//", "\\", ".\\"])
def test_people_stay_apart(tmp_path: Path, before: str) -> None:
    members = [(n.replace("/", "\\") if "\\" in before else n, d) for n, d in two_people(before)]
    clips = webdataset_tars(write_tar(tmp_path / "x.tar", members))
    assert people(clips) == {"anna": [0, 1, 2, 3], "ben": [100, 101, 102, 103]}


def test_dots_in_folders_and_capitals(tmp_path: Path) -> None:
    members = [("set.v1/" + n.replace("/", "_"), d) for n, d in two_people("", suffix="PNG")]
    clips = webdataset_tars(write_tar(tmp_path / "x.tar", members))
    assert [clip.name for clip in clips] == ["set.v1/anna_clip", "set.v1/ben_clip"]


def test_keys_end_at_the_first_dot(tmp_path: Path) -> None:
    """``take.1_000.png`` is a sample ``take`` for WebDataset: one with many pictures."""
    path = write_tar(tmp_path / "x.tar", two_people("", inner=".1"))
    with pytest.raises(ValueError, match=r"anna/clip has 4 pictures .*--picture-suffix"):
        webdataset_tars(path)


def with_masks(folder: str = "anna/") -> list[tuple[str, bytes]]:
    return [
        (f"{folder}c_{k:02d}.{what}", picture(level))
        for k in range(4)
        for what, level in (("image.png", k), ("mask.png", 255))
    ] + [(f"{folder}c_{k:02d}.json", b"{}") for k in range(4)]


def test_several_pictures_of_a_sample_need_a_choice(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", with_masks())
    with pytest.raises(ValueError, match=r"anna/c_00 has 2 pictures \(\.image\.png, \.mask\.png\)"):
        webdataset_tars(path)
    lines: list[str] = []
    (clip,) = webdataset_tars(path, "image.png", lines.append)
    assert levels(clip) == [0, 1, 2, 3]
    assert lines == ["skipped because they are not pictures to import: 4 .mask.png, 4 .json"]
    with pytest.raises(ValueError, match="is in its tar 2 times"):
        webdataset_tars(write_tar(tmp_path / "y.tar", two_people("") * 2))


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    """Our list of members grouped by the library, against the library's own reading of the file."""
    path = write_tar(tmp_path / "x.tar", with_masks() + two_people("v1.0/", suffix="image.PNG"))
    theirs: dict[str, list[bytes]] = {}
    for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
        # The .json of a sample stand at the tar's end: for the library they are samples of their own.
        if "image.png" in sample:
            theirs.setdefault(sample["__key__"].rpartition("_")[0], []).append(sample["image.png"])
    ours = {clip.name: list(clip.frames()) for clip in webdataset_tars(path, "image.png", lambda line: None)}
    assert ours == theirs
    assert len(ours) == 3


def test_one_key_in_two_tars_is_refused(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, two_people(""))
    with pytest.raises(ValueError, match=r"anna/clip_000 is in .*a\.tar and .*b\.tar"):
        webdataset_tars(tmp_path)


JUNK = b"\0\5\x16\7" + bytes(100)
HIDDEN = ["anna/._clip_000.png", "__MACOSX/anna/._clip_001.png", ".thumbnails/0.png", "anna/@eaDir/t.jpg"]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [(name, JUNK) for name in HIDDEN] + two_people(""))
    assert people(webdataset_tars(path)) == {"anna": [0, 1, 2, 3], "ben": [100, 101, 102, 103]}
    folder = tmp_path / "frames"
    for name, data in [(name, JUNK) for name in HIDDEN] + two_people(""):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    lines: list[str] = []
    assert people(frame_folders(folder, log=lines.append)).keys() == {"anna", "ben"}
    assert lines == ["skipped because they are not pictures to import: 4 hidden"]


def test_prepare_passes_over_hidden_files_too(tmp_path: Path) -> None:
    for name in ("anna/1.mp4", "anna/._1.mp4", "__MACOSX/1.mp4", ".trash/1.mp4", "anna/@eaDir/1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    videos, _ = expand_inputs([tmp_path])
    assert [video.name for video in videos] == ["anna/1.mp4"]


def test_a_hidden_folder_above_the_given_one_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "videos"
    folder.mkdir(parents=True)
    (folder / "1.mp4").write_bytes(b"x")
    assert len(expand_inputs([folder])[0]) == 1


@pytest.mark.parametrize(("name", "mode"), [("x.tar.gz", "w:gz"), ("x.tar", "w:gz"), ("x.tar", "w:xz")])
def test_compressed_tars_are_named(tmp_path: Path, name: str, mode: str) -> None:
    path = write_tar(tmp_path / name, two_people(""), mode)
    for source in (path, tmp_path):
        with pytest.raises(ValueError, match=r"x\.tar.* is compressed.*unpack"):
            webdataset_tars(source)


def test_folders_with_masks_and_fractions(tmp_path: Path) -> None:
    for name, data in with_masks("masked/"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"c_00 has 2 pictures"):
        frame_folders(tmp_path)
    (clip,) = frame_folders(tmp_path, "image.png")
    assert levels(clip) == [0, 1, 2, 3]
    seconds = tmp_path / "seconds"
    seconds.mkdir()
    for k in range(4):
        (seconds / f"frame_{k / 2:.1f}.png").write_bytes(picture(k))
    assert levels(frame_folders(seconds)[0]) == [0, 1, 2, 3]


def test_pictures_are_read_as_photographs_are(tmp_path: Path) -> None:
    """Rotated, transparent, 16-bit and large images of a clip."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = io.BytesIO()
    Image.fromarray(np.full((12, 16), 128 * 257, np.uint16)).save(deep, "PNG")
    clear = io.BytesIO()
    Image.new("RGBA", (16, 12), (0, 0, 0, 0)).save(clear, "PNG")

    def one(data: bytes) -> np.ndarray:
        return FrameClip("x", "x", lambda: [data]).decode(1)[0]

    assert one(picture(9, exif=exif)).shape == (16, 12, 3)
    assert np.all(one(deep.getvalue()) == 128)
    assert np.all(one(clear.getvalue()) == 255)
    assert FrameClip("x", "x", lambda: [picture(9, size=(64, 32))]).decode(1, max_side=16).shape == (
        1,
        8,
        16,
        3,
    )


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").write_bytes(picture(5))
    os.mkfifo(tmp_path / "a/1.png")
    os.mkfifo(tmp_path / "a/2.mp4")
    lines: list[str] = []
    assert levels(frame_folders(tmp_path, log=lines.append)[0]) == [5]
    assert "2 not a regular file" in lines[0]
    videos, _ = expand_inputs([tmp_path / "a/2.mp4"])
    hashes, failed = hash_inputs(videos, tmp_path)
    assert not hashes
    assert "not a regular file" in failed[0]["reason"]
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(ValueError, match="not a regular file"):
        webdataset_tars(tmp_path / "x.tar")
