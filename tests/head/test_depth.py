"""Heads as deep as photographs show them."""

import pytest
import torch

from rome_lightning.head import load_head
from rome_lightning.head.depth import DEPTH, DEPTH_BEHIND, SOFTNESS, behind_ears, foreshortening


def test_distances_behind_eyes_and_ears_shrink_and_the_order_of_depths_is_kept() -> None:
    head = load_head("open")
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))[None]
    shrunk = rest + foreshortening(head, rest)
    assert torch.equal(shrunk[..., :2], rest[..., :2])
    before, after = rest[0, :, 2], shrunk[0, :, 2]
    eyes, ears = (float(before[head.region(name)].mean()) for name in ("eyes", "ears"))
    assert torch.equal(after[before >= eyes], before[before >= eyes])
    side = (before < eyes) & (behind_ears(head, rest)[0, :, 0] == 0)
    torch.testing.assert_close(eyes - after[side], DEPTH * (eyes - before[side]), atol=1e-6, rtol=0)
    back = int(torch.where(head.region("scalp"), before, torch.inf).argmin())
    assert behind_ears(head, rest)[0, back] == 1
    ears_after = eyes - DEPTH * (eyes - ears)
    found = float(ears_after - after[back]) / float(ears - before[back])
    assert found == pytest.approx(DEPTH * DEPTH_BEHIND, abs=1e-5)
    scalp = head.region("scalp") & (before < ears - SOFTNESS - 0.001)
    assert (after[scalp][before[scalp].argsort()].diff() >= -1e-6).all()
