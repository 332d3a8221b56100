"""Heads as deep as photographs show them."""

import pytest
import torch

from rome_lightning.head import load_head
from rome_lightning.head.depth import DEPTH, behind_ears, foreshortening


def test_only_what_lies_behind_the_ears_comes_forward() -> None:
    head = load_head("open")
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))[None]
    offsets = foreshortening(head, rest)
    assert offsets[..., :2].abs().max() == 0
    assert offsets[..., 2].min() == 0
    assert offsets[:, head.region("face", "ears", "eyes", "mouth", "shoulders")].abs().max() == 0
    ears = float(rest[0, head.region("ears"), 2].mean())
    back = int(torch.where(head.region("scalp"), rest[0, :, 2], torch.inf).argmin())
    assert behind_ears(head, rest)[0, back] == 1
    # Behind the ears distances shrink by the same factor, so that the order of depths is kept.
    before, after = ears - rest[0, back, 2], ears - (rest + offsets)[0, back, 2]
    assert float(after / before) == pytest.approx(DEPTH, abs=1e-5)
    scalp = head.region("scalp") & (rest[0, :, 2] < ears - 0.031)
    order = rest[0, scalp, 2].argsort()
    assert ((rest + offsets)[0, scalp, 2][order].diff() >= -1e-6).all()
