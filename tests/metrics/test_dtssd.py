"""dtSSD against its definition, one pixel at a time."""

import math

import pytest
import torch

from rome_lightning.metrics import DtSSD, dtssd

FRAMES, HEIGHT, WIDTH = 3, 4, 5


def by_hand(prediction, target, mask):
    """Loops over frames, pixels and channels."""
    values = []
    for t in range(1, FRAMES):
        total = weight = 0.0
        for y in range(HEIGHT):
            for x in range(WIDTH):
                w = float(mask[t, 0, y, x] * mask[t - 1, 0, y, x])
                for c in range(3):
                    ours = float(prediction[t, c, y, x] - prediction[t - 1, c, y, x])
                    theirs = float(target[t, c, y, x] - target[t - 1, c, y, x])
                    total += w * (ours - theirs) ** 2 / 3
                weight += w
        values.append(math.sqrt(total / weight))
    return values


def test_it_is_the_root_mean_square_of_what_changes_otherwise():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, FRAMES, 3, HEIGHT, WIDTH, generator=generator)
    mask = torch.rand(FRAMES, 1, HEIGHT, WIDTH, generator=generator)
    assert dtssd(prediction, target, mask).tolist() == pytest.approx(by_hand(prediction, target, mask))
    everywhere = torch.ones_like(mask)
    assert dtssd(prediction, target).tolist() == pytest.approx(by_hand(prediction, target, everywhere))
    metric = DtSSD()
    metric.update(prediction, target, mask)
    assert float(metric.compute()) == pytest.approx(sum(by_hand(prediction, target, mask)) / 2)


def test_what_is_wrong_but_still_does_not_tremble():
    target = torch.rand(FRAMES, 3, HEIGHT, WIDTH)
    assert dtssd(target + 0.3, target).tolist() == pytest.approx([0, 0], abs=1e-6)
    # A still image lacks all of the target's motion.
    still = torch.zeros_like(target)
    moved = (target[1:] - target[:-1]).square().flatten(1).mean(1).sqrt()
    assert dtssd(still, target).tolist() == pytest.approx(moved.tolist())


def test_nothing_to_look_at_is_no_value():
    target = torch.rand(2, 3, HEIGHT, WIDTH)
    mask = torch.ones(2, 1, HEIGHT, WIDTH)
    mask[1] = 0
    assert dtssd(target, target, mask).isnan().all()
