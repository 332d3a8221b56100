"""Our shards in a WebDataset pipeline, against our own loader."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import webdataset
from small_dataset import SIZE, make_clip, write_dataset
from torch import Tensor

from datamodules.batches import RawBatch, raw_batch
from datamodules.codec import CorruptDataError
from datamodules.pairs import TrainingPairs
from datamodules.plan import TrainingPlan
from datamodules.streaming import WebDatasetDataModule, collate, read_pair
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.types import AvatarBatch

BRACES = "train-{000000..000002}.tar"


def module(dataset: Path, **changes: Any) -> WebDatasetDataModule:
    options = {"val_urls": str(dataset / "val-000000.tar"), "image_size": SIZE, "batch_size": 2, **changes}
    return WebDatasetDataModule(str(dataset / BRACES), **options)


def equal(ours: Any, theirs: Any) -> bool:
    """Whether two structs are bit-equal, types included."""
    if isinstance(ours, Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if hasattr(ours, "__dataclass_fields__"):
        return all(equal(getattr(ours, name), getattr(theirs, name)) for name in ours.__dataclass_fields__)
    return bool(ours == theirs)


def test_evaluation_equals_our_loader_batch_for_batch(dataset: Path) -> None:
    ours = TalkingHeadDataModule(dataset, image_size=SIZE, batch_size=2, eval_pairs_per_clip=5)
    theirs = module(dataset, eval_pairs_per_clip=5)
    pairs = list(zip(ours.val_dataloader(), theirs.val_dataloader(), strict=True))
    assert [len(batch) for batch, _ in pairs] == [2, 2, 1]
    assert all(equal(a, b) for a, b in pairs)
    decoded = [(ours.on_after_batch_transfer(a, 0), theirs.on_after_batch_transfer(b, 0)) for a, b in pairs]
    assert all(isinstance(a, AvatarBatch) and equal(a, b) for a, b in decoded)


@pytest.mark.parametrize("with_offsets", [False, True])
def test_pairs_of_a_plan_equal_our_loader(dataset: Path, tmp_path: Path, with_offsets: bool) -> None:
    """The same frames have the same bytes on both paths."""
    if with_offsets:
        offsets = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float16)
        clips = [make_clip(f"clip-{i}", f"person-{i}", seed=i) for i in range(3)]
        clips = [dataclasses.replace(clip, arrays={**clip.arrays, "offsets": offsets}) for clip in clips]
        dataset = tmp_path
        write_dataset(dataset, {"train": [clips]}, {"fit_outline": True})
    reader = TalkingHeadDataModule(dataset, image_size=SIZE).reader("train")
    plan = TrainingPlan(tuple(reader.plan_clips()), seed=3, pairs_per_epoch=8, num_driving=2)
    source = TrainingPairs(reader, plan, batch_size=4)
    places = [(0, position) for position in range(4)]
    arrays = source.layout.empty()
    note = source.write(places, arrays)
    urls = sorted(str(path) for path in dataset.glob("train-*.tar"))
    samples = {s["__key__"]: s for s in webdataset.WebDataset(urls, shardshuffle=False)}
    pairs = [plan.pair(*place) for place in places]
    batch = collate([read_pair(samples[reader.key(pair.clip)], pair) for pair in pairs], augmented=True)
    assert equal(raw_batch(arrays, note, 2, augmented=True), batch)


class TestTraining:
    def test_epochs_have_their_steps_and_visit_all_clips(self, dataset: Path) -> None:
        loader = module(dataset, steps_per_epoch=5, pairs_per_clip=2, num_driving=2).train_dataloader()
        first, second = list(loader), list(loader)
        assert len(loader) == len(first) == len(second) == 5
        for epoch in (first, second):
            assert all(len(batch) == 2 and len(batch.target) == 4 for batch in epoch)
            counts = Counter(clip for batch in epoch for clip in batch.clips)
            assert counts == {f"clip-{i}": 2 for i in range(5)}
        assert [b.clips for b in first] != [b.clips for b in second]

    def test_batches_larger_than_a_round(self, dataset: Path) -> None:
        data = module(dataset, steps_per_epoch=2, pairs_per_clip=1, batch_size=12)
        first, second = data.train_dataloader()
        assert len(first) == len(second) == 12
        assert set(Counter(first.clips + second.clips).values()) <= {4, 5}

    def test_a_new_run_repeats(self, dataset: Path) -> None:
        first, again = (list(module(dataset, steps_per_epoch=4).train_dataloader()) for _ in range(2))
        assert all(equal(a, b) for a, b in zip(first, again, strict=True))
        other = list(module(dataset, steps_per_epoch=4, seed=1).train_dataloader())
        assert not all(equal(a, b) for a, b in zip(first, other, strict=True))

    def test_worker(self, dataset: Path) -> None:
        here = list(module(dataset, steps_per_epoch=4).train_dataloader())
        there = list(module(dataset, steps_per_epoch=4, num_workers=1).train_dataloader())
        assert all(equal(a, b) for a, b in zip(here, there, strict=True))

    def test_nodes_share_the_shards(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[set[str]] = []
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            pipeline = module(dataset, batch_size=1, pairs_per_clip=1).training_pipeline()
            pipeline.stage(0).repeat(nepochs=1)
            seen.append({clip for batch in pipeline for clip in batch.clips})
        assert not seen[0] & seen[1]
        assert seen[0] | seen[1] == {f"clip-{i}" for i in range(5)}

    def test_too_many_readers(self, dataset: Path) -> None:
        with pytest.raises(ValueError, match=r"3 shards .* 4 readers .*num_workers"):
            module(dataset, num_workers=4).train_dataloader()


class Counting(lightning.LightningModule):
    """Counts the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: Counter[str] = Counter()

    def training_step(self, batch: AvatarBatch, index: int) -> Tensor:
        self.seen["train"] += len(batch)
        return self.weight * batch.target.image.mean()

    def validation_step(self, batch: AvatarBatch, index: int) -> None:
        self.seen["val"] += len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_in_a_trainer(dataset: Path, tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    counting = Counting()
    trainer.fit(counting, datamodule=module(dataset, steps_per_epoch=3, eval_pairs_per_clip=5))
    assert trainer.global_step == 6
    assert counting.seen == {"train": 12, "val": 10}


def test_damage_is_an_error(dataset: Path, tmp_path: Path) -> None:
    data = bytearray((dataset / "val-000000.tar").read_bytes())
    data[data.find(b"\xff\xd8\xff") + 300] ^= 4
    (tmp_path / "bad.tar").write_bytes(data)
    loader = module(dataset, val_urls=str(tmp_path / "bad.tar")).val_dataloader()
    with pytest.raises(CorruptDataError, match="clip-5: frame 0 does not match its checksum"):
        list(loader)


def test_options(dataset: Path, tmp_path: Path) -> None:
    assert len(module(dataset).urls) == 3
    assert not WebDatasetDataModule("a.tar").validates
    assert WebDatasetDataModule("a.tar").val_dataloader() == []
    with pytest.raises(ValueError, match="names no shard"):
        WebDatasetDataModule("")
    data = module(dataset, image_size=2 * SIZE)
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, RawBatch)
    with pytest.raises(ValueError, match=f"at most the stored {SIZE}"):
        data.on_after_batch_transfer(batch, 0)
    write_dataset(tmp_path, {"train": [[make_clip("a", "a", num_frames=1)]]})
    photo = WebDatasetDataModule("x.tar", str(tmp_path / "train-000000.tar"), image_size=SIZE)
    assert list(photo.val_dataloader()) == []
