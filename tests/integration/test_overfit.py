"""The model can overfit two synthetic people."""

from __future__ import annotations

import pytest
import torch
from helpers import small_config, without_carry
from tiny_run import IMAGE_SIZE

from datamodules.synthetic import SyntheticHeads
from rome_lightning.head import load_head
from rome_lightning.models import FullAvatar
from rome_lightning.training import LossConfig
from rome_lightning.training.objective import Objective, composited
from rome_lightning.types import AvatarBatch

NUM_STEPS = 60


@pytest.fixture(scope="module")
def batch() -> AvatarBatch:
    """One source and two targets of each of two people."""
    heads = SyntheticHeads(load_head("open"), IMAGE_SIZE, texture_size=128, rasterizer="torch")
    source, _ = heads.draw([0, 1], [0, 0])
    target, _ = heads.draw([0, 0, 1, 1], [1, 2, 1, 2])
    return AvatarBatch(source, target)


def test_losses_fall_on_two_people(batch):
    # The chamfer term samples points, so the whole run is seeded.
    torch.manual_seed(0)
    # With a carried photograph there would be little to learn.
    config = without_carry(small_config())
    model = FullAvatar(config)
    objective = Objective(LossConfig(perceptual=0.0, chamfer_points=128), model.head)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    background = torch.full((len(batch.target), 3), 0.5)
    history = []
    for _ in range(NUM_STEPS):
        rendered = model(batch.source, batch.target.params, background)
        terms = objective(rendered, batch, composited(rendered, batch.target, background))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        history.append({k: float(v.detach()) for k, v in {"total": terms.total, **terms.raw}.items()})
    first, last = history[0], history[-1]
    # Measured: 0.19, 0.52, 0.15 and 0.10; the margin is for other processors.
    assert last["total"] < 0.35 * first["total"]
    assert last["photometric"] < 0.65 * first["photometric"]
    assert last["segmentation"] < 0.25 * first["segmentation"]
    # Hair and shoulders have grown: the bare head's outline misses them.
    assert last["occupancy_all"] < 0.2 * first["occupancy_all"]
