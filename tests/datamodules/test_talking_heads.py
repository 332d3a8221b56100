"""Readers, batches and the data module."""

from __future__ import annotations

import colorsys
import dataclasses
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from small_dataset import NUM_LANDMARKS, SIZE, make_clip, write_dataset

from datamodules.augmentation import Augmentation, colour_matrix
from datamodules.codec import CorruptDataError
from datamodules.manifest import Manifest
from datamodules.reading import ClipReader
from datamodules.split_index import with_indices
from datamodules.talking_heads import TalkingHeadDataModule, WeightedManifest
from rome_lightning.types import AvatarBatch, Region


def module(dataset: Path | None, **changes: Any) -> TalkingHeadDataModule:
    options = {"image_size": SIZE, "batch_size": 2, "pairs_per_epoch": 10, "num_driving": 3, **changes}
    return TalkingHeadDataModule(dataset, **options)


def batches(data: TalkingHeadDataModule, loader: Any, epoch: int = 0) -> list[AvatarBatch]:
    loader.batch_sampler.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def frame_of(image: torch.Tensor) -> int:
    """The frame number, which the fixture stored in the red channel."""
    return round((float(image[0].mean()) * 255 - 20) / 10)


class TestReader:
    def test_frames_by_number(self, dataset: Path) -> None:
        reader = ClipReader(Manifest.load(dataset), dataset, "train")
        assert len(reader) == 5
        for clip in (0, 3, 4):
            original = make_clip(f"clip-{clip}", f"person-{clip}", seed=clip)
            assert reader.key(clip) == original.key
            arrays, header = reader.meta(clip)
            assert header["identity"] == original.identity
            np.testing.assert_array_equal(arrays["pose"], original.arrays["pose"])
            for frame in (0, 7, 11):
                images = reader.frame(clip, frame)
                np.testing.assert_array_equal(images.regions, original.regions[frame])
                assert np.abs(images.image.astype(int) - original.images[frame]).max() <= 6

    def test_pickles_without_copying_the_index(self, dataset: Path) -> None:
        reader = ClipReader(with_indices(dataset, Manifest.load(dataset)), dataset, "train")
        reader.frame(0, 0)
        data = pickle.dumps(reader)
        assert len(data) < 3000
        copy = pickle.loads(data)
        np.testing.assert_array_equal(copy.frame(4, 3).image, reader.frame(4, 3).image)

    def test_flipped_bit(self, dataset: Path, tmp_path: Path) -> None:
        shutil.copytree(dataset, tmp_path / "d")
        rows = np.load(tmp_path / "d/train-000000.frames.npy")
        with (tmp_path / "d/train-000000.tar").open("r+b") as file:
            file.seek(int(rows["position"][3]) + 300)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 4]))
        reader = ClipReader(Manifest.load(tmp_path / "d"), tmp_path / "d", "train")
        with pytest.raises(CorruptDataError, match="checksum"):
            reader.frame(0, 3)
        reader.frame(0, 2)

    def test_missing_index(self, dataset: Path, tmp_path: Path) -> None:
        shutil.copytree(dataset, tmp_path / "d")
        (tmp_path / "d/train-000001.frames.npy").unlink()
        with pytest.raises(FileNotFoundError, match="index"):
            ClipReader(Manifest.load(tmp_path / "d"), tmp_path / "d", "train")


class TestBatches:
    def test_training_batch(self, dataset: Path) -> None:
        data = module(dataset)
        loaded = batches(data, data.train_dataloader())
        assert len(loaded) == 5
        for batch in loaded:
            assert (len(batch), batch.num_driving) == (2, 3)
            assert batch.source.image.shape == (2, 3, SIZE, SIZE)
            assert batch.target.image.shape == (6, 3, SIZE, SIZE)
            assert batch.target.foreground_mask.shape == (6, 1, SIZE, SIZE)
            assert batch.target.landmarks.shape == (6, NUM_LANDMARKS, 2)
            assert 0 <= float(batch.source.image.min()) <= float(batch.source.image.max()) <= 1
        for source, targets, clip in zip(
            batch.source.image, batch.target.image.split(3), batch.clips, strict=True
        ):
            original = make_clip(clip, "x", seed=int(clip[-1]))
            chosen = [frame_of(image) for image in (source, *targets)]
            assert len(set(chosen)) == 4
            i = list(batch.clips).index(clip)
            poses = torch.cat(
                [batch.source.params.stored_pose[i, None], batch.target.params.stored_pose[3 * i : 3 * i + 3]]
            )
            torch.testing.assert_close(poses, torch.from_numpy(original.arrays["pose"][chosen]))
            torch.testing.assert_close(batch.source.params.shape[i].numpy(), original.arrays["shape"])

    def test_same_stream_for_any_number_of_workers(self, dataset: Path) -> None:
        streams = []
        for workers in (0, 1, 2):
            data = module(dataset, num_workers=workers)
            loader = data.train_dataloader()
            streams.append([batches(data, loader, epoch) for epoch in (0, 1)])
        flat = [torch.cat([b.target.image.flatten() for e in stream for b in e]) for stream in streams]
        assert torch.equal(flat[0], flat[1])
        assert torch.equal(flat[0], flat[2])
        first, second = (torch.cat([b.target.image for b in epoch]) for epoch in streams[0])
        assert not torch.equal(first, second)

    def test_resize_scales_everything_together(self, dataset: Path) -> None:
        data = module(dataset, image_size=SIZE // 2, val_split="val")
        full = module(dataset)
        small = batches(data, data.val_dataloader())[0].target
        large = batches(full, full.val_dataloader())[0].target
        # Averages of 2 x 2 pixels have the mean of the picture up to the wider filter at the border.
        torch.testing.assert_close(small.image.mean((2, 3)), large.image.mean((2, 3)), atol=2e-3, rtol=0)
        assert small.regions.shape == (2, SIZE // 2, SIZE // 2)
        # The picture's corners map to each other: pixel edges -1/2 and S - 1/2.
        torch.testing.assert_close((small.landmarks + 0.5) * 2, large.landmarks + 0.5)
        torch.testing.assert_close(small.params.camera, large.params.camera)

    def test_holdout_is_never_trained_on(self, dataset: Path) -> None:
        data = module(dataset, holdout_ratio=0.25, val_split="seen", pairs_per_epoch=100)
        train = {frame_of(i) for b in batches(data, data.train_dataloader()) for i in b.target.image}
        assert train == set(range(9))
        validation = batches(data, data.val_dataloader())
        assert {frame_of(i) for b in validation for i in b.target.image} == {9, 10, 11}
        assert {frame_of(i) for b in validation for i in b.source.image} == {0}
        assert sum(len(b) for b in validation) == 5 * 3

    def test_jitter_is_shared_and_repeatable(self, dataset: Path) -> None:
        colour = Augmentation(brightness=0.3, contrast=0.2, saturation=0.5, hue=0.1)
        data, plain = module(dataset, augmentation=colour), module(dataset)
        jittered = batches(data, data.train_dataloader())
        again = batches(data, data.train_dataloader())
        originals = batches(plain, plain.train_dataloader())
        assert torch.equal(jittered[0].target.image, again[0].target.image)
        for after, before in zip(jittered, originals, strict=True):
            assert after.clips == before.clips
            # An affine map of colours is fixed by 4 points: fit it on the source, check it on the targets.
            for i in range(2):
                source = before.source.image[i].flatten(1).T
                inside = after.source.image[i].flatten(1).T
                keep = ((inside > 0) & (inside < 1)).all(1)
                design = torch.cat([source, torch.ones(len(source), 1)], 1)
                solution = torch.linalg.lstsq(design[keep], inside[keep], driver="gelsd").solution
                for target in range(3 * i, 3 * i + 3):
                    colours = before.target.image[target].flatten(1).T
                    expected = torch.cat([colours, torch.ones(len(colours), 1)], 1) @ solution
                    actual = after.target.image[target].flatten(1).T
                    torch.testing.assert_close(actual, expected.clamp(0, 1), atol=2e-3, rtol=0)
        evaluation = batches(data, data.val_dataloader())
        assert torch.equal(evaluation[0].target.image, batches(plain, plain.val_dataloader())[0].target.image)


class TestColourMatrix:
    def test_no_change(self) -> None:
        matrix, shift = colour_matrix(torch.zeros(1, 4), Augmentation(1.0, 1.0, 1.0, 1.0))
        torch.testing.assert_close(matrix[0], torch.eye(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(shift, torch.zeros(1, 3))

    def test_each_option_alone(self) -> None:
        colour, grey = torch.tensor([0.7, 0.4, 0.3]), torch.full((3,), 0.4)

        def apply(x: torch.Tensor, **settings: float) -> torch.Tensor:
            matrix, shift = colour_matrix(torch.ones(1, 4), Augmentation(**settings))
            return matrix[0] @ x + shift[0]

        torch.testing.assert_close(apply(colour, brightness=0.5), colour * 1.5, atol=1e-5, rtol=0)
        expected = (colour - 0.5) * 1.5 + 0.5
        torch.testing.assert_close(apply(colour, contrast=0.5), expected, atol=1e-5, rtol=0)
        # Grey has no chrominance to rotate or scale.
        torch.testing.assert_close(apply(grey, saturation=0.9, hue=0.3), grey, atol=1e-3, rtol=0)
        luma = torch.tensor([0.299, 0.587, 0.114])
        doubled = apply(colour, saturation=1.0)
        torch.testing.assert_close(doubled, 2 * colour - (luma @ colour), atol=2e-3, rtol=0)

    def test_hue_turns_as_in_hsv(self) -> None:
        matrix, _ = colour_matrix(torch.ones(1, 4), Augmentation(hue=1 / 3))
        turned = (matrix[0] @ torch.tensor([0.6, 0.4, 0.4])).clamp(0, 1)
        hue = colorsys.rgb_to_hsv(*turned.tolist())[0]
        # YIQ and HSV turn by the same angle only roughly: red goes to a primary within 1/12 of a turn.
        assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 1 / 12


def damaged(dataset: Path, target: Path, frames: range) -> Path:
    shutil.copytree(dataset, target)
    rows = np.load(target / "train-000000.frames.npy")
    with (target / "train-000000.tar").open("r+b") as file:
        for frame in frames:
            file.seek(int(rows["position"][frame]) + 100)
            file.write(b"\x00\x01\x02\x03")
    return target


class TestDamage:
    def test_damaged_frames_are_replaced_and_counted(self, dataset: Path, tmp_path: Path) -> None:
        folder = damaged(dataset, tmp_path / "d", range(3))
        data = module(folder, pairs_per_epoch=40, num_driving=1, skip_budget=0.9)
        loaded = batches(data, data.train_dataloader())
        assert len(loaded) == 20
        assert 0 < data.pairs_skipped < 40
        for batch in loaded:
            for clip, image in zip(batch.clips, batch.source.image, strict=True):
                assert clip != "clip-0" or frame_of(image) >= 3

    def test_a_lost_clip_gives_way_to_the_next(self, dataset: Path, tmp_path: Path) -> None:
        folder = damaged(dataset, tmp_path / "d", range(12))
        data = module(folder, pairs_per_epoch=40, skip_budget=5.0)
        loaded = batches(data, data.train_dataloader())
        assert len(loaded) == 20
        assert "clip-0" not in {clip for batch in loaded for clip in batch.clips}

    def test_budget(self, dataset: Path, tmp_path: Path) -> None:
        data = module(damaged(dataset, tmp_path / "d", range(12)), pairs_per_epoch=40)
        with pytest.raises(ValueError, match=r"could not be read .*skip_budget"):
            batches(data, data.train_dataloader())

    def test_evaluation_never_replaces(self, dataset: Path, tmp_path: Path) -> None:
        data = module(damaged(dataset, tmp_path / "d", range(12)), holdout_ratio=0.2, val_split="seen")
        with pytest.raises(CorruptDataError):
            batches(data, data.val_dataloader())


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 64}, "at most the stored 48"),
            ({"pairs_per_epoch": 1}, "less than one step"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"holdout_ratio": 1.0}, "holdout_ratio"),
        ],
    )
    def test_bad_options(self, dataset: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            module(dataset, **changes).train_dataloader()

    def test_missing_splits(self, dataset: Path) -> None:
        data = module(dataset)
        with pytest.raises(ValueError, match="'test'"):
            data.setup("test")
        with pytest.raises(ValueError, match="holdout_ratio > 0"):
            module(dataset, val_split="seen").setup("validate")
        assert module(dataset, val_split="seen").val_dataloader() == []
        with pytest.raises(FileNotFoundError, match="rome prepare"):
            module(dataset / "nowhere").setup("fit")

    def test_other_data_is_refused_on_resume(self, dataset: Path, tmp_path: Path) -> None:
        write_dataset(tmp_path, {"train": [[make_clip("a", "a")]]})
        state = module(dataset).state_dict()
        module(dataset).load_state_dict(state)
        with pytest.raises(ValueError, match="init_from"):
            module(tmp_path).load_state_dict(state)


class _Recorder(lightning.LightningModule):
    """Records its batches; has one parameter, so that DDP accepts it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: AvatarBatch, batch_idx: int) -> torch.Tensor:
        frames = [frame_of(image) for image in batch.source.image]
        self.seen.append((self.current_epoch, batch_idx, list(zip(batch.clips, frames, strict=True))))
        return self.weight * batch.target.image.mean()

    def validation_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        self.seen.append(("val", batch_idx, list(batch.clips)))

    def on_train_end(self) -> None:
        torch.save(self.seen, self.folder / f"rank{self.global_rank}.pt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(dataset: Path, folder: Path, devices: int, **changes: Any) -> list[list[Any]]:
    folder.mkdir()
    options = {"strategy": "ddp_spawn"} if devices > 1 else {}
    options |= changes.pop("trainer", {})
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(_Recorder(folder), module(dataset, num_driving=1, pairs_per_epoch=14, **changes))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(devices)]


@pytest.mark.filterwarnings("ignore")
def test_lightning_sets_the_epoch_and_leaves_the_sampler_alone(dataset: Path, tmp_path: Path) -> None:
    (seen,) = fit(dataset, tmp_path / "one", 1, batch_size=4)
    steps = [entry for entry in seen if entry[0] != "val"]
    assert [entry[:2] for entry in steps] == [(e, i) for e in (0, 1) for i in range(3)]
    assert steps[0][2] != steps[3][2]
    assert len([entry for entry in seen if entry[0] == "val"]) == 2 * 2


@pytest.mark.filterwarnings("ignore")
def test_overfitting_repeats_its_batches(dataset: Path, tmp_path: Path) -> None:
    (seen,) = fit(dataset, tmp_path / "one", 1, batch_size=4, trainer={"overfit_batches": 2})
    steps = [entry for entry in seen if entry[0] != "val"]
    assert len(steps) == 4
    assert [entry[2] for entry in steps[:2]] == [entry[2] for entry in steps[2:]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_see_the_stream_of_one(dataset: Path, tmp_path: Path) -> None:
    (one,) = fit(dataset, tmp_path / "one", 1, batch_size=4)
    ranks = fit(dataset, tmp_path / "two", 2, batch_size=2)
    joined = [(a[0], a[1], a[2] + b[2]) for a, b in zip(*ranks, strict=True) if a[0] != "val"]
    assert joined == [entry for entry in one if entry[0] != "val"]


class TestSeveralDatasets:
    def test_weights(self, dataset: Path, tmp_path: Path) -> None:
        write_dataset(tmp_path, {"train": [[make_clip("other", "other", seed=9)]]})
        mixed = module(
            None, manifests={str(dataset): 1.0, str(tmp_path): 3.0}, pairs_per_epoch=1024, batch_size=64
        )
        clips = Counter(clip for batch in mixed.train_dataloader() for clip in batch.clips)
        assert clips["other"] == 768
        assert set(clips) == {"other", *(f"clip-{i}" for i in range(5))}
        assert mixed.state_dict()["manifest"] not in {m.hash for m in mixed.manifests}
        # Without weights all clips count equally.
        plain = module(
            None, manifests=[WeightedManifest(str(tmp_path)), WeightedManifest(str(dataset))], batch_size=12,
            pairs_per_epoch=1020,
        )  # fmt: skip
        clips = Counter(clip for batch in plain.train_dataloader() for clip in batch.clips)
        assert all(abs(count - 170) <= 1 for count in clips.values())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "either data.init_args.manifest or"),
            ({"manifests": [WeightedManifest("a", 1.0), WeightedManifest("b")]}, "positive weight, or none"),
            ({"manifests": {"a": -1.0}}, "positive weight"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            module(None, **options)

    def test_of_another_head(self, dataset: Path, tmp_path: Path) -> None:
        manifest = Manifest.load(dataset)
        shutil.copytree(dataset, tmp_path / "d")
        dataclasses.replace(manifest, head={**manifest.head, "name": "x"}).save(tmp_path / "d/manifest.json")
        with pytest.raises(ValueError, match="head model"):
            module(None, manifests={str(dataset): 1.0, str(tmp_path / "d"): 1.0}).setup("fit")


@pytest.mark.parametrize("strategy", ["min_gap", "yaw_balanced"])
def test_strategies_read_times_and_poses(dataset: Path, strategy: str) -> None:
    data = module(dataset, pair_strategy=strategy, min_gap_s=0.6, pairs_per_epoch=40, num_driving=1)
    gaps = [
        abs(frame_of(a) - frame_of(b))
        for batch in batches(data, data.train_dataloader())
        for a, b in zip(batch.source.image, batch.target.image, strict=True)
    ]
    assert min(gaps) >= (4 if strategy == "min_gap" else 1)
    assert len(set(gaps)) > 3


def test_parameters_are_read_row_by_row_and_checked(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "d")
    reader = ClipReader(Manifest.load(tmp_path / "d"), tmp_path / "d", "train")
    arrays, _ = reader.meta(1)
    for frames in ((3,), (0, 11, 5)):
        rows = ClipReader(Manifest.load(tmp_path / "d"), tmp_path / "d", "train").parameters(1, frames)
        for name in ("expression", "pose", "camera", "landmarks"):
            np.testing.assert_array_equal(rows[name], arrays[name][list(frames)])
        np.testing.assert_array_equal(rows["shape"], np.tile(arrays["shape"], (len(frames), 1)))
    tar = tmp_path / "d/train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.find(arrays["pose"][3].tobytes()) + 5] ^= 1
    tar.write_bytes(data)
    reader = ClipReader(Manifest.load(tmp_path / "d"), tmp_path / "d", "train")
    reader.parameters(1, (2, 4))
    with pytest.raises(CorruptDataError, match="parameters of frame 3 of clip clip-1"):
        reader.parameters(1, (2, 3))
    # Older shards have no such checksums: a clip's parameters are read and checked as a whole.
    (tmp_path / "d/train-000000.params.npy").unlink()
    reader = ClipReader(Manifest.load(tmp_path / "d"), tmp_path / "d", "train")
    reader.parameters(0, (2,))
    with pytest.raises(CorruptDataError, match="checksum"):
        reader.parameters(1, (2,))


def test_pixels_beyond_the_video_stay_so_at_any_size(tmp_path: Path) -> None:
    clip = make_clip("a", "a")
    regions = np.full_like(clip.regions, Region.FACE_SKIN)
    regions[:, :12] = Region.OUTSIDE
    write_dataset(tmp_path, {"train": [[dataclasses.replace(clip, regions=regions)]]})
    for size in (SIZE, 32, 20):
        small = module(tmp_path, image_size=size)
        batch = batches(small, small.train_dataloader())[0]
        outside = batch.source.region_mask(Region.OUTSIDE)
        assert set(batch.source.regions.unique().tolist()) == {int(Region.FACE_SKIN), int(Region.OUTSIDE)}
        assert abs(float(outside.mean()) - 12 / SIZE) < 1 / size


def test_several_datasets_in_yaml(dataset: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TalkingHeadDataModule, "data")
    listed = [{"path": str(dataset), "weight": 2}, {"path": "b", "weight": 1.5}]
    for value in (listed, {str(dataset): 2, "b": 1.5}):
        parsed = parser.parse_object({"data": {"manifest": None, "manifests": value}})
        data = parser.instantiate(parsed).data
        built = TalkingHeadDataModule(**vars(data)) if not isinstance(data, TalkingHeadDataModule) else data
        assert [(d.path, d.weight) for d in built.datasets] == [(str(dataset), 2.0), ("b", 1.5)]
