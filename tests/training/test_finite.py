"""Values that are not finite, wherever they come from, cost one step and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import random_frames, small_config
from torch import Tensor, nn

from rome_lightning.models import AvatarModel
from rome_lightning.training.finite import (
    RunningStatistics,
    cleaned,
    describe,
    finite_part,
    finite_rows,
    is_finite,
    not_finite,
)
from rome_lightning.types import AvatarBatch


@pytest.fixture(scope="module")
def batch() -> AvatarBatch:
    head = AvatarModel(small_config()).head
    return AvatarBatch(random_frames(head, 2), random_frames(head, 4), ("clip-a", "clip-b"))


def spoilt(batch: AvatarBatch, side: str, name: str, value: float, row: int = 0) -> AvatarBatch:
    """A copy with one value replaced."""
    frames = getattr(batch, side).map(torch.Tensor.clone)
    tensor = getattr(frames.params, name) if hasattr(frames.params, name) else getattr(frames, name)
    tensor[row].view(-1)[0] = value
    return dataclasses.replace(batch, **{side: frames})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", ["image", "foreground_mask", "landmarks", "camera", "expression", "shape"])
def test_every_number_is_looked_at(batch: AvatarBatch, side: str, name: str, value: float) -> None:
    bad = spoilt(batch, side, name, value, row=1)
    assert bool(is_finite(batch))
    assert not bool(is_finite(bad))
    assert not_finite(bad) in ([f"{side}.{name}"], [f"{side}.params.{name}"])
    assert bool(is_finite(cleaned(bad)))
    # The second source, or the second target of the first.
    left = 0 if side == "source" else 1
    assert finite_rows(bad).tolist() == [left == 0, left == 1]
    part = finite_part(bad)
    assert part.clips == (batch.clips[left],)
    assert torch.equal(part.target.image, batch.target.image[2 * left : 2 * left + 2])
    assert describe(bad).endswith(f" of {batch.clips[1 - left]}")


def test_what_is_finite_stays_as_it_is(batch: AvatarBatch) -> None:
    for before, after in zip(vars(batch.source).values(), vars(cleaned(batch).source).values(), strict=True):
        if isinstance(before, Tensor):
            assert torch.equal(before, after)


def test_a_batch_with_nothing_finite_names_its_clips(batch: AvatarBatch) -> None:
    bad = spoilt(spoilt(batch, "source", "image", torch.nan), "source", "camera", torch.nan, row=1)
    with pytest.raises(ValueError, match=r"source.image, source.params.camera of clip-a, clip-b; remove"):
        finite_part(bad)


def test_running_statistics_are_taken_back_if_the_step_is_skipped() -> None:
    layer = nn.BatchNorm2d(2)
    kept = RunningStatistics(layer)
    layer(torch.full((2, 2, 3, 3), torch.nan))
    kept.take_back(torch.tensor(1.0))
    assert layer.running_mean.tolist() == [0, 0]
    assert int(layer.num_batches_tracked) == 0
    kept = RunningStatistics(layer)
    layer(torch.ones(2, 2, 3, 3))
    kept.take_back(torch.tensor(0.0))
    assert int(layer.num_batches_tracked) == 1
