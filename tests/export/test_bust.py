"""The lower end of a bust, and its clean cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rome_lightning.export.bust import photograph_cut
from rome_lightning.export.surface import CAP_UV, Cut, bust_surface, whole_surface
from rome_lightning.head import HeadModel
from rome_lightning.types import HeadParams


@pytest.fixture(scope="module")
def rest(head: HeadModel) -> torch.Tensor:
    return head(HeadParams.neutral(1, head.num_shape, head.num_expression))[0]


def test_the_bust_ends_where_the_photograph_does(head: HeadModel, rest: torch.Tensor) -> None:
    bottoms = [photograph_cut(head, rest, rest[:, 1] > lowest).bottom for lowest in (-0.2, -0.24, -0.27)]
    assert bottoms == sorted(bottoms, reverse=True)
    assert bottoms[0] == pytest.approx(-0.19, abs=0.02)
    # A portrait cropped at the chin keeps some neck.
    chin = float(rest[head.region("face"), 1].min())
    assert photograph_cut(head, rest, rest[:, 1] > chin).bottom == pytest.approx(chin - 0.075, abs=1e-4)


@pytest.mark.parametrize("lowest", [-0.2, -1.0])
def test_the_meshs_own_border_lies_below(head: HeadModel, rest: torch.Tensor, lowest: float) -> None:
    cut = photograph_cut(head, rest, rest[:, 1] > lowest)
    edges = torch.cat([head.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]).sort(1).values
    found, times = edges.unique(dim=0, return_counts=True)
    border = found[times == 1].flatten().unique()
    border = border[rest[border, 1] < -0.15]
    assert len(border) > 50
    assert float(cut.above(rest[border]).max()) < 0


def test_the_rim_lies_on_the_bowl_and_the_cap_has_its_own_texel(head: HeadModel, rest: torch.Tensor) -> None:
    cut = Cut(bottom=-0.2, side=2.0, depth=1.5, middle=-0.02)
    surface = bust_surface(head, rest, cut)
    points = surface.carry(rest)
    heights = cut.above(points)
    assert float(heights[~surface.cap].min()) > -1e-3
    ring = surface.cap & (heights.abs() < 1.5e-3)
    # Points on edges of the mesh: the bowl deviates from them by less than a millimetre.
    assert int(ring.sum()) >= int(surface.cap.sum()) - 3
    torch.testing.assert_close(
        surface.uvs[surface.cap], torch.tensor(CAP_UV).expand(int(surface.cap.sum()), 2)
    )
    np.testing.assert_allclose(np.asarray(surface.weights.sum(1)), 1, atol=1e-12)


def test_without_a_cut_the_surface_is_the_heads(head: HeadModel, rest: torch.Tensor) -> None:
    surface = whole_surface(head)
    assert torch.equal(surface.carry(rest)[surface.faces], rest[head.faces])
    assert torch.equal(surface.uvs[surface.faces], head.uvs[head.uv_faces])
    assert not surface.cap.any()
