"""Offsets of a clip: stored once, read with its frames, in every batch."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from fake_tracker import SquareTracker, write_clip
from small_dataset import SIZE, make_clip, write_dataset

from datamodules.batches import load_frames
from datamodules.codec import META_TENSORS, Clip, CorruptDataError, encode_meta
from datamodules.evaluation import StoredClips
from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig, prepare
from datamodules.prepare.outlines import frames_to_fit
from datamodules.reading import ClipReader
from datamodules.shards import ShardWriter
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.head import load_head
from rome_lightning.types import HeadParams

NUM_VERTICES = 11


def offsets_of(number: int) -> np.ndarray:
    return (np.random.default_rng(number).normal(size=(NUM_VERTICES, 3)) * 0.1).astype(np.float16)


def with_offsets(clip: Clip, number: int) -> Clip:
    return dataclasses.replace(clip, arrays={**clip.arrays, "offsets": offsets_of(number)})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    clips = [with_offsets(make_clip(f"clip-{i}", f"person-{i}", seed=i), i) for i in range(4)]
    write_dataset(folder, {"train": [clips[:2], clips[2:3]], "val": [clips[3:]]}, {"fit_outline": True})
    return folder


def module(dataset: Path | None, **changes: Any) -> TalkingHeadDataModule:
    options = {"image_size": SIZE, "batch_size": 2, "pairs_per_epoch": 6, "num_driving": 3, **changes}
    return TalkingHeadDataModule(dataset, **options)


def test_files_without_offsets_have_the_bytes_of_before() -> None:
    shapes = {"shape": (3,), "frame_offsets": (3,), "mask_offsets": (3,)}
    arrays = {
        name: np.arange(shapes.get(name, (2,))[0]).reshape(shapes.get(name, (2,))) for name in META_TENSORS
    }
    data = encode_meta(arrays, {"schema": "rome-shard/1.2", "clip": "a"})
    # Written by the version before offsets.
    before = "b6549a935ae4e34e2051ae9ec97d18261a4447be10afb98f18baddff7699fce1"
    assert hashlib.sha256(data).hexdigest() == before


def test_another_library_reads_them(fitted: Path) -> None:
    with tarfile.open(fitted / "train-000000.tar") as tar:
        file = tar.extractfile("clip-1.meta.safetensors")
        assert file is not None
        meta = safetensors.numpy.load(file.read())
    assert meta["offsets"].dtype == np.float16
    np.testing.assert_array_equal(meta["offsets"], offsets_of(1))


def test_rows_are_read_beside_offsets_and_both_are_checked(fitted: Path, tmp_path: Path) -> None:
    def reader(folder: Path) -> ClipReader:
        return ClipReader(Manifest.load(folder), folder, "train")

    for clip in (1, 2):
        arrays, _ = reader(fitted).meta(clip)
        rows = reader(fitted).parameters(clip, (7, 3))
        np.testing.assert_array_equal(rows["offsets"], offsets_of(clip))
        np.testing.assert_array_equal(rows["shape"], np.tile(arrays["shape"], (2, 1)))
        for name in ("expression", "pose", "camera", "landmarks"):
            np.testing.assert_array_equal(rows[name], arrays[name][[7, 3]])
    damaged = tmp_path / "d"
    damaged.mkdir()
    for file in fitted.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    data = bytearray((damaged / "train-000000.tar").read_bytes())
    data[data.find(offsets_of(1).tobytes()) + 4] ^= 1
    (damaged / "train-000000.tar").write_bytes(data)
    with pytest.raises(CorruptDataError, match="checksum"):
        reader(damaged).parameters(1, (0,))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("strategy", ["random", "min_gap"])
def test_source_and_targets_of_a_batch_have_their_clips_offsets(
    fitted: Path, num_workers: int, strategy: str
) -> None:
    data = module(fitted, num_workers=num_workers, pair_strategy=strategy)
    loader = data.train_dataloader()
    for raw in loader:
        batch = data.on_after_batch_transfer(raw, 0)
        assert batch.source.offsets.dtype == torch.float32
        for index, key in enumerate(batch.clips):
            wanted = torch.from_numpy(offsets_of(int(key[-1])).astype(np.float32))
            torch.testing.assert_close(batch.source.offsets[index], wanted, atol=0, rtol=0)
            for target in batch.target.offsets[3 * index : 3 * index + 3]:
                torch.testing.assert_close(target, wanted, atol=0, rtol=0)
    data.teardown("fit")


def test_one_dataset_without_leaves_all_batches_without(fitted: Path, dataset: Path) -> None:
    data = module(None, manifests={str(fitted): 1.0, str(dataset): 1.0})
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.source.offsets is None
    assert batch.target.offsets is None
    data = module(dataset)
    assert data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0).source.offsets is None


def test_frames_for_evaluation_have_them(fitted: Path, dataset: Path) -> None:
    wanted = torch.from_numpy(offsets_of(2).astype(np.float32)).expand(3, -1, -1)
    reader = ClipReader(Manifest.load(fitted), fitted, "train")
    torch.testing.assert_close(load_frames(reader, 2, (0, 5, 6), SIZE).offsets, wanted)
    stored = StoredClips(fitted / "manifest.json", "train", SIZE // 2)
    torch.testing.assert_close(stored.frames("clip-2", (0, 4, 8)).offsets, wanted)
    assert StoredClips(dataset / "manifest.json", "train", SIZE).frames("clip-2", (0,)).offsets is None


def test_a_shard_has_offsets_throughout_or_not_at_all(fitted: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x", {}) as writer:
        writer.add(with_offsets(make_clip("a", "a"), 0))
        with pytest.raises(ValueError, match=r"b: all clips of a shard have offsets or none.*fit_outline"):
            writer.add(make_clip("b", "b"))
    lying = dataclasses.replace(Manifest.load(fitted), configuration={})
    with pytest.raises(ValueError, match=r"does not belong to its manifest.*fit_outline: False"):
        ClipReader(lying, fitted, "train").parameter_shapes()


CONFIG = PrepareConfig(
    image_size=64, fps=None, max_frames=6, min_frames=3, videos_per_shard=2, min_identity_similarity=None
)


def test_prepare_fits_them(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "anna.mp4", 0)
    manifests = {}
    for fit in (False, True):
        config = dataclasses.replace(CONFIG, fit_outline=fit)
        manifests[fit] = prepare([video], tmp_path / str(fit), config, log=str, make_tracker=SquareTracker)
    reader = ClipReader(manifests[True], tmp_path / "True", "train")
    offsets = reader.meta(0)[0]["offsets"]
    assert offsets.shape == (load_head("open").num_vertices, 3)
    # The square that the tracker labels as a person is larger than the head.
    assert 0.001 < np.linalg.norm(offsets.astype(np.float32), axis=1).max() < 0.13
    # Without the fit of the ears, which the tracker labels as skin, they move only in depth.
    assert np.abs(offsets[load_head("open").region("ears").numpy(), :2]).max() > 1e-3
    plain = ClipReader(manifests[False], tmp_path / "False", "train")
    assert "offsets" not in plain.meta(0)[0]
    for name in ("shape", "expression", "pose", "camera", "landmarks"):
        np.testing.assert_array_equal(plain.meta(0)[0][name], reader.meta(0)[0][name])
    assert "fit_outline" not in CONFIG.clip_settings()
    assert dataclasses.replace(CONFIG, fit_outline=True).clip_settings()["fit_outline"] is True


def test_frames_are_the_usual_one_and_those_that_turn_most() -> None:
    head = load_head("open")
    config = dataclasses.replace(CONFIG, image_size=32)
    clip = SquareTracker(head, config).track(np.zeros((7, 80, 96, 3), dtype=np.uint8))
    yaw = torch.deg2rad(torch.tensor([0.0, 3.0, -20.0, 18.0, 40.0, 1.0, 38.0]))
    turned = torch.stack([torch.zeros(7), yaw, torch.zeros(7)], dim=1)
    expression = torch.full((7, head.num_expression), 0.5)
    expression[5] = 0.1
    expression[[0, 2]] = 0.0
    params: HeadParams = dataclasses.replace(clip.params, global_pose=turned, expression=expression * 1.0)
    chosen = frames_to_fit(dataclasses.replace(clip, params=params)).tolist()
    assert chosen == [1, 4, 2, 3]
    still = dataclasses.replace(params, global_pose=torch.zeros(7, 3))
    assert frames_to_fit(dataclasses.replace(clip, params=still)).tolist() == [1]
