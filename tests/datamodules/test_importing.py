"""Pictures in the layouts of others become datasets."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fake_tracker import SquareTracker
from PIL import Image

from datamodules.importing import import_dataset, read_config
from datamodules.importing.sources import ROME_CHUNKS, webdataset_tars
from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig
from datamodules.reading import ClipReader

CONFIG = PrepareConfig(image_size=64, min_frames=4, min_identity_similarity=None)
NUM_FRAMES = 12


def picture(seed: int, number: int) -> bytes:
    texture = np.random.default_rng(seed).integers(0, 80, (80, 96, 3))
    buffer = io.BytesIO()
    Image.fromarray((texture + 4 * number).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


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
