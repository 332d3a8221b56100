"""Images in foreign layouts become datasets."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from fake_tracker import SquareTracker
from PIL import Image
from small_prepare import picture

from datamodules.importing import import_dataset, read_config
from datamodules.importing.sources import ROME_CHUNKS, webdataset_tars
from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig
from datamodules.reading import ClipReader

CONFIG = PrepareConfig(image_size=64, min_frames=4, min_identity_similarity=None)
NUM_FRAMES = 12


def check(kind: str, source: Path, output: Path, people: set[str]) -> Manifest:
    lines: list[str] = []
    manifest = import_dataset(kind, source, output, CONFIG, lines.append, SquareTracker)
    assert {identity for shard in manifest.shards for identity in shard.identities} == people
    reader = ClipReader(manifest, output, "train")
    assert len(reader) == len(people)
    for clip in range(len(reader)):
        arrays, header = reader.meta(clip)
        # The tracker rejects the third frame of every clip; order shows that names were sorted by number.
        assert arrays["frame_number"].tolist() == [0, 1, *range(3, NUM_FRAMES)]
        means = [reader.frame(clip, frame).image.mean() for frame in range(len(arrays["pose"]))]
        assert np.all(np.diff(means) > 2)
        assert header["identity"] in people
    page = (output / "report.html").read_text()
    assert f"{11 * len(people)} used of {12 * len(people)} tracked" in page
    assert all(f"&middot; {person} " in page for person in people)
    (output / "report.html").unlink()
    lines.clear()
    import_dataset(kind, source, output, CONFIG, lines.append, SquareTracker)
    assert any("kept from an earlier run" in line for line in lines)
    assert (output / "report.html").read_text() == page
    return manifest


def test_folders_of_pictures(tmp_path: Path) -> None:
    for seed, folder in enumerate(("anna/clip 1", "bert")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for number in range(NUM_FRAMES):
            (tmp_path / "in" / folder / f"{number}.png").write_bytes(picture(seed, number))
    check("frames", tmp_path / "in", tmp_path / "out", {"anna", "bert"})
    with pytest.raises(ValueError, match="has no pictures"):
        import_dataset("frames", tmp_path / "out", tmp_path / "x", CONFIG, print)


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for seed, clip in enumerate(("anna/clip", "bert")):
            for number in range(NUM_FRAMES):
                for suffix, data in (("png", picture(seed, number)), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{clip}_{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def test_webdataset_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/0.tar")
    check("webdataset", tmp_path / "in", tmp_path / "out", {"anna", "bert"})
    with tarfile.open(tmp_path / "in/0.tar") as tar:
        middle = tar.getmembers()[10]
    with (tmp_path / "in/0.tar").open("r+b") as file:
        file.truncate(middle.offset_data + 100)
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        webdataset_tars(tmp_path / "in")


def write_lmdb(path: Path, values: dict[str, bytes]) -> None:
    lmdb = pytest.importorskip("lmdb")
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**24) as database, database.begin(write=True) as write:
        for name, value in values.items():
            write.put(name.encode(), value)


def test_gagavatar_database(tmp_path: Path) -> None:
    names = [
        (seed, n, f"{prefix}{n}") for seed, prefix in enumerate(("anna_", "img_bert_")) for n in range(12)
    ]
    write_lmdb(tmp_path / "in/img_lmdb", {name: picture(seed, number) for seed, number, name in names})
    check("lmdb", tmp_path / "in", tmp_path / "out", {"anna", "bert"})


class _Evil:
    def __reduce__(self) -> object:
        return (print, ("run by a pickle",))


def test_rome_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {
        "anna": [f"anna/video/{n}" for n in range(NUM_FRAMES)],
        "bert": [f"bert/v/{n}" for n in range(12)],
    }
    (tmp_path / "in/lists").mkdir(parents=True)
    entries = [(0, keys["anna"]), (ROME_CHUNKS - 1, keys["bert"])]
    (tmp_path / "in/lists/train_keys.pkl").write_bytes(pickle.dumps(entries))
    for seed, (chunk, names) in enumerate(entries):
        samples = [
            {"image": picture(seed, number), "keypoints_2d": np.zeros((68, 2)), "size": 80}
            for number in range(NUM_FRAMES)
        ]
        values = {name: pickle.dumps(sample) for name, sample in zip(names, samples, strict=True)}
        write_lmdb(tmp_path / f"in/chunks/{chunk}_lmdb", values)
    check("lmdb", tmp_path / "in", tmp_path / "out", {"anna", "bert"})
    (tmp_path / "in/lists/train_keys.pkl").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ValueError, match="pickle"):
        import_dataset("lmdb", tmp_path / "in", tmp_path / "x", CONFIG, print, SquareTracker)
    assert "run by a pickle" not in capsys.readouterr().out


def test_options(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("image_size: 128\n")
    config = read_config(path, "mine", ["anna"])
    assert (config.image_size, config.dataset, config.val_identities) == (128, "mine", ["anna"])
    path.write_text("image_sise: 128\n")
    with pytest.raises(ValueError, match="image_sise"):
        read_config(path, "mine", [])
    # Values that only the file contains are kept.
    path.write_text("dataset: theirs\nval_identities: ['007']\nfps: 1e1\n")
    config = read_config(path, None, [])
    assert (config.dataset, config.val_identities, config.fps) == ("theirs", ["007"], 10)
    assert read_config(path, "mine", ["ben"]).val_identities == ["ben"]
    assert read_config(None, None, []).dataset == "imported"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("val_identities: [007]", "val_identities.*Got value: 7; put names in quotes"),
        ("licence: no", "licence.*Got value: False; put names in quotes"),
        ("image_size: large", "image_size.*Got value: large"),
        ("licence: [", "Problems parsing config"),
    ],
)
def test_values_of_other_types_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """YAML reads 007 as 7 and ``no`` as false: neither is a name."""
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_config(tmp_path / "config.yaml", None, [])


def _bomb() -> bytes:
    """PNG of 40,000 x 40,000 pixels in 70 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", 40_000, 40_000, 8, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + end


def _circle() -> bytes:
    """A TIFF whose list of images points back to its first."""
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(1, 5))).save(file, "TIFF")
    data = bytearray(file.getvalue())
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    return bytes(data)


def _nested() -> bytes:
    """Pickle that doubles a tuple key 200 times, which hashing would follow."""
    return b"\x80\x04}(N\x85" + b"2\x86" * 200 + b"K\x01u."


BAD_MEMBERS = {
    "bomb": (_bomb(), "more than 178,956,970 pixels"),
    "circle": (_circle(), ""),
    "cut": (picture(1, 5)[:2000], "cannot read"),
    "empty": (b"", "0 bytes"),
    "text": (b"no picture", "format is unknown"),
}
"""Members of a clip, and the expected message; none if the image itself is intact."""


def one_bad_member_each() -> dict[str, bytes]:
    """Names and images: one clip is intact, in the others the sixth image is bad."""
    files = {f"whole/clip/{n}.png": picture(0, n) for n in range(NUM_FRAMES)}
    for seed, (name, (bad, _)) in enumerate(BAD_MEMBERS.items(), 1):
        files |= {f"{name}/clip/{n}.png": picture(seed, n) for n in range(NUM_FRAMES)}
        files[f"{name}/clip/5.png"] = bad
    return files


@pytest.mark.parametrize("kind", ["frames", "webdataset"])
def test_one_bad_member_leaves_the_others_as_they_are(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    if kind == "frames":
        for name, data in one_bad_member_each().items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        os.mkfifo(source / "whole/clip/pipe.png")
    else:
        with tarfile.open(source / "0.tar", "w") as tar:
            for name, data in one_bad_member_each().items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            pipe = tarfile.TarInfo("whole/clip/pipe.png")
            pipe.type = tarfile.FIFOTYPE
            tar.addfile(pipe)
    lines: list[str] = []
    manifest = import_dataset(kind, source, tmp_path / "out", CONFIG, lines.append, SquareTracker)
    reader = ClipReader(manifest, tmp_path / "out", "train")
    imported = {reader.meta(clip)[1]["identity"]: clip for clip in range(len(reader))}
    refused = {name: said for name, (_, said) in BAD_MEMBERS.items() if said}
    assert set(imported) == {"whole", *BAD_MEMBERS} - set(refused)
    assert any("1 not a regular file" in line for line in lines)
    failed = {item["input"]: item["reason"] for item in manifest.failed}
    assert set(failed) == {f"{name}/clip" for name in refused}
    for name, said in refused.items():
        assert said in failed[f"{name}/clip"]
        assert f"picture 5 of {name}/clip" in failed[f"{name}/clip"]
    # The intact clip is the same as without the others.
    alone = import_dataset(
        "frames", write_whole(tmp_path / "alone"), tmp_path / "alone_out", CONFIG, print, SquareTracker
    )
    other = ClipReader(alone, tmp_path / "alone_out", "train")
    assert len(other) == 1
    for frame in range(NUM_FRAMES - 1):
        mine = reader.frame(imported["whole"], frame).image
        assert np.array_equal(mine, other.frame(0, frame).image)


def write_whole(folder: Path) -> Path:
    (folder / "whole/clip").mkdir(parents=True)
    for n in range(NUM_FRAMES):
        (folder / f"whole/clip/{n}.png").write_bytes(picture(0, n))
    return folder


def test_a_nested_pickle_leaves_the_other_clips_as_they_are(tmp_path: Path) -> None:
    keys = {name: [f"{name}/video/{n}" for n in range(NUM_FRAMES)] for name in ("anna", "bert")}
    (tmp_path / "in/lists").mkdir(parents=True)
    (tmp_path / "in/lists/train_keys.pkl").write_bytes(pickle.dumps([(0, keys["anna"]), (1, keys["bert"])]))
    for chunk, names in enumerate(keys.values()):
        values = {name: pickle.dumps({"image": picture(chunk, n)}) for n, name in enumerate(names)}
        if chunk:
            values[names[3]] = _nested()
        write_lmdb(tmp_path / f"in/chunks/{chunk}_lmdb", values)
    manifest = import_dataset("lmdb", tmp_path / "in", tmp_path / "out", CONFIG, print, SquareTracker)
    assert [item["input"] for item in manifest.failed] == ["bert/video"]
    assert {person for shard in manifest.shards for person in shard.identities} == {"anna"}
