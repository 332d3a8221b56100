import math

import pytest
import torch

from rome_lightning.geometry.openings import eye_opening, mouth_opening


def face(lids: float, lips: float) -> torch.Tensor:
    """Landmarks of eyes 20 px wide and a mouth 30 px wide; all others at 0."""
    points = torch.zeros(1, 478, 2)
    for corners, upper, lower, x in (
        ((33, 133), (160, 158), (144, 153), 100.0),
        ((362, 263), (385, 387), (380, 373), 150.0),
    ):
        points[0, corners[0]], points[0, corners[1]] = torch.tensor([[x, 50.0], [x + 20, 50]])
        for place, (top, bottom) in enumerate(zip(upper, lower, strict=True)):
            points[0, top] = torch.tensor([x + 7 + 6 * place, 50 - lids / 2])
            points[0, bottom] = torch.tensor([x + 7 + 6 * place, 50 + lids / 2])
    points[0, 78], points[0, 308] = torch.tensor([[110.0, 100], [140, 100]])
    points[0, 13], points[0, 14] = torch.tensor([[125.0, 100 - lips / 2], [125, 100 + lips / 2]])
    return points


@pytest.mark.parametrize(("lids", "lips"), [(6.0, 0.0), (0.0, 12.0), (2.0, 3.0)])
def test_openings_are_heights_over_widths_however_the_head_leans(lids: float, lips: float) -> None:
    upright = face(lids, lips)
    turn = torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    for points in (upright, 3 * upright @ turn):
        assert float(eye_opening(points)) == pytest.approx(lids / 20, abs=1e-5)
        assert float(mouth_opening(points)) == pytest.approx(lips / 30, abs=1e-5)
