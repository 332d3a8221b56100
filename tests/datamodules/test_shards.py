"""Schema, determinism and failure behaviour of shards and manifests."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import webdataset
from PIL import Image
from small_dataset import NUM_SHAPE, SIZE, make_clip, standard_clips, write_dataset

from datamodules import codec
from datamodules.codec import META_TENSORS, CorruptDataError, decode_masks, decode_meta, encode_masks
from datamodules.manifest import Manifest, build_manifest
from datamodules.reading import ClipReader, FrameImages
from datamodules.shards import SCHEMA, ShardInfo, ShardWriter, check_schema, finished_shard


def test_same_clips_give_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_dataset(folder, standard_clips())
        files = sorted(folder.iterdir())
        hashes.append([(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert hashes[0] == hashes[1]
    assert not [name for name, _ in hashes[0] if "tmp" in name]


def test_tar_is_plain_ustar_with_adjacent_members(dataset: Path) -> None:
    with tarfile.open(dataset / "train-000000.tar") as tar:
        members = tar.getmembers()
    suffixes = ("frames.bin", "masks.bin", "meta.safetensors")
    assert [m.name for m in members] == [f"clip-{i}.{s}" for i in range(2) for s in suffixes]
    assert all(m.mtime == 0 and m.uid == 0 and m.type == tarfile.REGTYPE for m in members)


def test_webdataset_writer_gives_the_bytes_of_plain_ustar(dataset: Path, tmp_path: Path) -> None:
    """The library's writer passes no format on to ``tarfile``: PAX headers would make other bytes."""
    path = dataset / "train-000000.tar"
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "x.tar", "w", tarfile.USTAR_FORMAT) as plain:
        for member in tar:
            info = tarfile.TarInfo(member.name)
            info.size, info.mode = member.size, 0o644
            plain.addfile(info, tar.extractfile(member))
    assert path.read_bytes() == (tmp_path / "x.tar").read_bytes()


def test_streams_with_webdataset_and_decodes_with_other_libraries(dataset: Path) -> None:
    samples = list(webdataset.WebDataset(str(dataset / "train-000000.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["clip-0", "clip-1"]
    clip = make_clip("clip-1", "person-1", seed=1)
    sample = samples[1]
    meta = safetensors.numpy.load(sample["meta.safetensors"])
    assert set(meta) == set(META_TENSORS)
    for name in clip.arrays:
        np.testing.assert_array_equal(meta[name], clip.arrays[name])
    for frame in (0, 11):
        start, end = meta["frame_offsets"][frame : frame + 2].astype(int)
        data = sample["frames.bin"][start:end]
        assert zlib.crc32(data) == meta["frame_crc32"][frame]
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (SIZE, SIZE), "RGB")
        assert "progressive" not in picture.info
        # At quality 95 a smooth image changes by a few grey levels.
        difference = np.abs(np.asarray(picture).astype(int) - clip.images[frame])
        assert difference.max() <= 6
        start, end = meta["mask_offsets"][frame : frame + 2].astype(int)
        record = sample["masks.bin"][start:end]
        length = int.from_bytes(record[:4], "little")
        values, lengths = np.frombuffer(record[4 : 4 + length], dtype=np.uint8).reshape(2, -1)
        labels = [label for label, count in zip(values, lengths, strict=True) for _ in range(count)]
        np.testing.assert_array_equal(labels, clip.regions[frame].ravel())
        matte = np.asarray(Image.open(io.BytesIO(record[4 + length :])))
        assert np.abs(matte.astype(int) - clip.matte[frame]).max() <= 6


def test_header_strings(dataset: Path, tmp_path: Path) -> None:
    with tarfile.open(dataset / "train-000000.tar") as tar:
        (tmp_path / "x.safetensors").write_bytes(tar.extractfile("clip-0.meta.safetensors").read())
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        header = file.metadata()
    assert header["schema"] == SCHEMA
    assert (header["clip"], header["identity"], header["fps"]) == ("clip-0", "person-0", "25")
    arrays, own_header = decode_meta((tmp_path / "x.safetensors").read_bytes())
    assert own_header == header
    assert arrays["shape"].shape == (NUM_SHAPE,)


def test_index_points_at_the_members(dataset: Path) -> None:
    data = (dataset / "train-000001.tar").read_bytes()
    frames = np.load(dataset / "train-000001.frames.npy", mmap_mode="r")
    clips = np.load(dataset / "train-000001.clips.npy", mmap_mode="r")
    assert [row["key"].decode() for row in clips] == ["clip-2", "clip-3"]
    assert len(frames) == 24
    for row in frames:
        position = int(row["position"])
        jpeg = data[position : position + int(row["length"])]
        assert jpeg[:2] == b"\xff\xd8"
        assert jpeg[-2:] == b"\xff\xd9"
        assert zlib.crc32(jpeg) == row["crc32"]


def test_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    def killed() -> None:
        with ShardWriter(tmp_path, "x", {}) as writer:
            writer.add(make_clip("a", "a"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        killed()
    assert list(tmp_path.iterdir()) == []


def test_finished_means_same_spec_and_size(tmp_path: Path) -> None:
    spec = {"inputs": ["a"]}
    assert finished_shard(tmp_path, "x", spec) is None
    with ShardWriter(tmp_path, "x", spec) as writer:
        writer.add(make_clip("a", "a"))
        info = writer.finish()
    assert finished_shard(tmp_path, "x", spec) == info
    assert finished_shard(tmp_path, "x", {"inputs": ["b"]}) is None
    with (tmp_path / "x.tar").open("ab") as file:
        file.write(b"0")
    assert finished_shard(tmp_path, "x", spec) is None
    (tmp_path / "x.json").write_text("{")
    assert finished_shard(tmp_path, "x", spec) is None


def test_shard_without_clips_has_a_json_only(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x", {"inputs": ["a"]}) as writer:
        info = writer.finish(failed=[{"input": "a.mp4", "reason": "no face"}])
    assert [f.name for f in tmp_path.iterdir()] == ["x.json"]
    assert finished_shard(tmp_path, "x", {"inputs": ["a"]}) == info == ShardInfo.load(tmp_path / "x.json")


def test_order_and_keys_are_checked(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x", {}) as writer:
        writer.add(make_clip("b", "b"))
        with pytest.raises(ValueError, match="ascending"):
            writer.add(make_clip("a", "a"))
    with pytest.raises(ValueError, match="key"):
        make_clip("a.b", "a")


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_damaged_masks_are_reported(cut: int) -> None:
    record = encode_masks(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    with pytest.raises(CorruptDataError, match="masks"):
        decode_masks(record[:cut])


@pytest.mark.parametrize("length", [1, 254, 255, 256, 509, 510, 511, 2000])
def test_runs_of_any_length(length: int) -> None:
    labels = np.full((2, 2048), 3, np.uint8)
    labels[0, 40 : 40 + length] = 5
    regions, _ = decode_masks(encode_masks(labels, labels))
    np.testing.assert_array_equal(regions, labels)


@pytest.mark.parametrize("packed", [b"", b"\x01", b"\x01\x02\x20\x1f", b"\x01\x02\x20\x21"])
def test_runs_that_do_not_fill_the_picture(packed: bytes) -> None:
    record = encode_masks(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    matte = record[4 + int.from_bytes(record[:4], "little") :]
    full = b"\x01\x02\x20\x20"
    assert decode_masks(struct.pack("<I", 4) + full + matte)[0].tolist() == [[1] * 8] * 4 + [[2] * 8] * 4
    with pytest.raises(CorruptDataError, match="masks"):
        decode_masks(struct.pack("<I", len(packed)) + packed + matte)


def test_labels_of_the_schema_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def zlib_record(regions: np.ndarray, matte: np.ndarray) -> bytes:
        picture = io.BytesIO()
        Image.fromarray(matte).save(picture, "JPEG", quality=95)
        labels = zlib.compress(regions.tobytes())
        return struct.pack("<I", len(labels)) + labels + picture.getvalue()

    monkeypatch.setattr(codec, "encode_masks", zlib_record)
    manifest = write_dataset(tmp_path, standard_clips())
    dataclasses.replace(manifest, schema="rome-shard/1.1").save(tmp_path / "manifest.json")
    reader = ClipReader(Manifest.load(tmp_path), tmp_path, "val")
    clip = make_clip("clip-5", "person-5", seed=5)
    out = FrameImages(*(np.zeros((SIZE, SIZE, *more), np.uint8) for more in ((3,), (), ())))
    for frame in (0, 7):
        np.testing.assert_array_equal(reader.frame(0, frame).regions, clip.regions[frame])
        np.testing.assert_array_equal(reader.frame(0, frame, out).regions, clip.regions[frame])


class TestManifest:
    def test_round_trip_and_hash(self, dataset: Path) -> None:
        manifest = Manifest.load(dataset)
        assert manifest == Manifest.load(dataset / "manifest.json")
        assert json.loads((dataset / "manifest.json").read_text())["hash"] == manifest.hash
        assert [s.name for s in manifest.split("val")] == ["val-000000"]

    def test_identity_in_two_splits(self, tmp_path: Path) -> None:
        clips = {"train": [[make_clip("a", "same")]], "val": [[make_clip("b", "same")]]}
        with pytest.raises(ValueError, match="'same' is in the splits 'train' and 'val'"):
            write_dataset(tmp_path, clips)

    def test_edited(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, {"train": [[make_clip("a", "a")]]})
        path = tmp_path / "manifest.json"
        path.write_text(path.read_text().replace('"test"', '"other"', 1))
        with pytest.raises(ValueError, match="edited or damaged"):
            Manifest.load(path)

    def test_truncated_shard(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, {"train": [[make_clip("a", "a")]]})
        tar = tmp_path / "train-000000.tar"
        tar.write_bytes(tar.read_bytes()[:-512])
        with pytest.raises(ValueError, match=r"must have \d+ bytes"):
            Manifest.load(tmp_path)
        tar.unlink()
        with pytest.raises(ValueError, match="missing"):
            Manifest.load(tmp_path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="rome prepare"):
            Manifest.load(tmp_path)

    def test_versions(self, tmp_path: Path) -> None:
        check_schema("rome-shard/1", tmp_path)
        check_schema("rome-shard/1.4", tmp_path)
        for schema in ("rome-shard/2", "rome-shard/10", "other/1", ""):
            with pytest.raises(ValueError, match="rome-shard/1"):
                check_schema(schema, tmp_path)

    def test_fields_of_a_later_minor_version_are_ignored(self, tmp_path: Path) -> None:
        manifest = write_dataset(tmp_path, {"train": [[make_clip("a", "a")]]})
        path = tmp_path / "manifest.json"
        content = json.loads(path.read_text())
        content["schema"], content["new"] = "rome-shard/1.9", 1
        content["shards"][0]["new"] = 2
        del content["hash"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["hash"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content))
        assert Manifest.load(path).shards == manifest.shards

    def test_empty_shards_are_skipped(self) -> None:
        info = ShardInfo("x", "rome-shard/1", {}, "", 0, "", 0, 0, [], [{"input": "a", "reason": "b"}])
        manifest = build_manifest("d", 8, {}, [("train", info)], {})
        assert manifest.shards == []
        assert manifest.failed == [{"input": "a", "reason": "b"}]
