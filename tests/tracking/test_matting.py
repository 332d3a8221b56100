"""Mattes: bounds by the segmenter, and the network on a photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rome_lightning.tracking.matting import Matter, bounded_matte
from rome_lightning.tracking.segmenter import Segmentation, Segmenter
from rome_lightning.types import Region


def disc(size: int = 128, radius: float = 40.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((x - size / 2) ** 2 + (y - size / 2) ** 2) < radius**2).float()[None]


def test_holes_close_islands_vanish_and_the_outline_stays() -> None:
    person = disc()
    alpha = disc(radius=41.0) * 0.7 + disc(radius=38.0) * 0.3
    broken = alpha.clone()
    broken[:, 60:70, 60:70] = 0
    broken[:, :10, :10] = 1
    matte = bounded_matte(broken, person)
    assert float(matte[:, 60:70, 60:70].min()) == 1
    assert float(matte[:, :10, :10].max()) == 0
    rim = (disc(radius=42.0) - disc(radius=38.5)).bool()
    assert torch.equal(matte[rim], alpha[rim])


def test_bounds_do_not_depend_on_the_other_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    alpha, person = torch.rand(2, 3, 40, 40, generator=generator)
    together = bounded_matte(alpha, person)
    assert torch.equal(together[1], bounded_matte(alpha[1:2], person[1:2])[0])
    assert 0 <= float(together.min()) <= float(together.max()) <= 1


def test_network_size_is_checked() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 250"):
        Matter(network_size=250)


@pytest.fixture(scope="module")
def segmented(region_model: Path, astronaut: np.ndarray) -> Segmentation:
    return Segmenter(region_model).segment(astronaut[None, :400, 30:430])


def test_regions_of_a_photograph(segmented: Segmentation) -> None:
    labels = segmented.labels[0]
    assert labels.shape == (400, 400)
    # Positions in the photograph: cheek, forehead hair, suit, flag behind her.
    assert labels[130, 200] == Region.FACE_SKIN
    assert labels[45, 195] == Region.HAIR
    assert labels[330, 200] == Region.CLOTHES
    assert labels[20, 20] == Region.BACKGROUND
    assert float(segmented.person[0, 130, 200]) > 0.95
    assert float(segmented.person[0, 20, 20]) < 0.1


def test_matte_of_a_photograph(matte_model: Path, segmented: Segmentation, astronaut: np.ndarray) -> None:
    frames = astronaut[None, :400, 30:430]
    matte = Matter(matte_model).matte(frames, segmented.person)[0].float()
    labels = segmented.labels[0]
    core = labels == Region.FACE_SKIN
    assert float(matte[core].mean()) > 0.99
    # Only pixels of an ear's rim may be half transparent.
    assert float((matte[core] < 0.9).float().mean()) < 0.01
    assert float(matte[:30, :60].max()) < 0.05
    person = labels != Region.BACKGROUND
    union = (person | (matte > 0.5)).sum()
    assert float((person & (matte > 0.5)).sum() / union) > 0.93


def test_a_batch_is_the_same_as_single_frames(
    matte_model: Path, region_model: Path, astronaut: np.ndarray
) -> None:
    frames = np.stack([astronaut[:256, 100:356], astronaut[20:276, 90:346]])
    matter, segmenter = Matter(matte_model), Segmenter(region_model)
    assert torch.equal(matter.matte(frames)[1], matter.matte(frames[1:])[0])
    assert torch.equal(segmenter.segment(frames).labels[1], segmenter.segment(frames[1:]).labels[0])
