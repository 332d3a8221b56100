"""Seams between the charts of a texture."""

import pytest
import torch

from rome_lightning.head import HeadModel, load_head
from rome_lightning.models.seams import Seams
from rome_lightning.renderer import UVLayout, push_pull, sample_texture

SIZE = 512


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


@pytest.fixture(scope="module")
def layout(head: HeadModel) -> UVLayout:
    return UVLayout(head.faces, head.uvs, head.uv_faces, SIZE)


@pytest.fixture(scope="module")
def seams(head: HeadModel, layout: UVLayout) -> Seams:
    return Seams(head, layout)


def steps(seams: Seams, texture: torch.Tensor) -> torch.Tensor:
    """Difference of the texture between both sides of each vertex on a seam."""
    places = seams.uvs[seams.sides].permute(2, 0, 1)[None]
    first, second = sample_texture(texture, places).unbind(2)
    return (first - second).abs().amax(1)


def test_twins_are_one_point_of_the_surface(head: HeadModel, seams: Seams) -> None:
    vertex_of = torch.empty(len(head.uvs), dtype=torch.long)
    vertex_of[head.uv_faces.flatten().long()] = head.faces.flatten().long()
    first, second = vertex_of[seams.sides]
    assert torch.equal(first, second)
    assert not torch.equal(seams.uvs[seams.sides[0]], seams.uvs[seams.sides[1]])
    assert not head.region("mouth", "eyes", "scalp")[first].any()
    # The open head's seams between neck, chest and back.
    assert (head.region("neck", "shoulders")[first]).sum() > 40


def test_both_sides_of_a_seam_get_one_colour_and_known_texels_keep_theirs(
    seams: Seams, layout: UVLayout
) -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, SIZE), torch.linspace(0, 1, SIZE), indexing="ij")
    # Slow enough to be the same at a seam and in the faces beside it.
    texture = torch.stack([rows, columns, rows * columns])[None]
    hidden = torch.zeros(1, 1, SIZE, SIZE)
    joined = seams(texture, texture, hidden, hidden)
    mask = layout.mask.float()[None, None]
    # Half of a lookup at a seam lies beyond the chart.
    assert steps(seams, push_pull(joined, mask)).mean() < 0.3 * steps(seams, texture).mean()
    # Only faces at a seam change.
    assert ((joined - texture).abs().amax(1) > 1e-4).float().mean() < 0.2
    # The side that a photograph shows decides.
    known = (rows < 0.5).float()[None, None] * mask
    decided = seams(texture, texture, known, known)
    assert torch.equal(decided[known.expand_as(decided) == 1], texture[known.expand_as(decided) == 1])
