"""Datasets from before the torso was tracked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from small_dataset import make_clip, write_dataset

from datamodules.evaluation import StoredClips
from datamodules.talking_heads import TalkingHeadDataModule, WeightedManifest


def test_old_poses_have_no_shift_and_mix_with_new_ones(tmp_path: Path) -> None:
    new = make_clip("a-0", "anna", seed=1)
    old = make_clip("b-0", "ben", seed=2)
    rotations = old.arrays["pose"][:, :15]
    old = dataclasses.replace(old, arrays={**old.arrays, "pose": rotations})
    for name, clip in (("new", new), ("old", old)):
        write_dataset(tmp_path / name, {"train": [[clip]]})
    stored = StoredClips(tmp_path / "old", "train", 32)
    params = stored.frames("b-0", [0, 4]).params
    assert torch.equal(params.torso_shift, torch.zeros(2, 3))
    np.testing.assert_array_equal(params.pose, rotations[:2])
    data = TalkingHeadDataModule(
        None,
        manifests=[WeightedManifest(str(tmp_path / name)) for name in ("new", "old")],
        image_size=32,
        batch_size=8,
        num_workers=0,
        pairs_per_epoch=16,
    )
    data.setup("fit")
    shifts = {
        name: shift
        for batch in data.train_dataloader()
        for name, shift in zip(batch.clips, batch.source.params.torso_shift, strict=True)
    }
    assert set(shifts) == {"a-0", "b-0"}
    assert not shifts["b-0"].any()
    assert shifts["a-0"].all()
