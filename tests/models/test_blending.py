"""The blend of photograph, texture and corrections: what decides colour and opacity of each pixel."""

import pytest
import torch
from torch.nn import functional as F

from rome_lightning.models.blending import (
    SHADOW,
    blend,
    hair_gaps,
    lip_shadow,
    same_side,
    soft_contours,
    soft_edges,
    without_slivers,
    without_thin_fills,
)
from rome_lightning.models.carrying import IN_MOUTH, NUM_CARRIED, OWN_VIEW, VISIBILITY
from rome_lightning.models.photo_canvas import KNOWN, MATTE, RGB
from rome_lightning.renderer.pooling import smoothed


def test_without_corrections_the_photograph_decides_where_it_sees() -> None:
    layers = torch.zeros(1, NUM_CARRIED, 1, 9)
    layers[:, RGB], layers[:, MATTE], layers[:, KNOWN] = 0.9, 0.4, 1.0
    layers[0, VISIBILITY, 0, :3] = 1.0
    mesh = (torch.arange(9) < 7).view(1, 1, 1, 9)
    distance = torch.tensor([0.0] * 7 + [0.1, 0.2]).view(1, 1, 1, 9)
    rgb, mask = blend(torch.zeros(1, 5, 1, 9), torch.full((1, 3, 1, 9), 0.1), layers, mesh, distance)
    seen, hidden, beside = (rgb[0, 0, 0, column].item() for column in (0, 5, 8))
    assert seen == pytest.approx(0.9, abs=0.02)
    assert hidden == pytest.approx(0.1, abs=0.02)
    assert beside == pytest.approx(0.9, abs=0.02)
    opacity = mask[0, 0, 0].tolist()
    assert opacity[0] == pytest.approx(0.4, abs=0.01)
    assert opacity[4] == pytest.approx(0.4, abs=0.01)
    # It was on the source's mesh and is now far beside the driven one: the face would repeat.
    assert opacity[8] < 0.01


def test_the_network_cannot_open_what_no_photograph_shows() -> None:
    layers = torch.zeros(1, NUM_CARRIED, 1, 1)
    layers[:, KNOWN] = layers[:, MATTE] = 1
    corrections = torch.full((1, 5, 1, 1), -100.0)
    mesh = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    _, mask = blend(corrections, torch.zeros(1, 3, 1, 1), layers, mesh, torch.zeros(1, 1, 1, 1))
    assert mask.item() > 0.97


def test_no_line_stays_between_what_is_seen_and_what_is_not() -> None:
    """A face, beside it a neck that the matte says is not there, and hidden strips in both."""
    opacity = torch.zeros(1, 1, 64, 256)
    shown = torch.ones(1, 1, 64, 256)
    mesh = torch.ones(1, 1, 64, 256, dtype=torch.bool)
    opacity[..., :100] = 1
    # A strip beside the neck that is not there, a line in the middle of the face, and a wide unseen side.
    for first, last in ((100, 103), (50, 53), (180, 256)):
        shown[..., first:last] = 0
        opacity[..., first:last] = 1
    # A crack of the matte in the unseen side.
    shown[..., 220:223], opacity[..., 220:223] = 1, 0
    result = without_slivers(opacity, shown, mesh)
    assert result[..., :100].min() == 1
    assert result[..., 100:180].max() == 0
    assert result[..., 181:].min() == 1
    # Where everything is visible nothing changes, strands of hair included.
    seen = torch.ones_like(shown)
    assert torch.equal(without_slivers(opacity, seen, mesh), opacity)
    # Beside the mesh, the photograph's own strands remain.
    beside = torch.zeros_like(mesh)
    assert torch.equal(without_slivers(opacity, shown, beside), opacity)


def test_steps_at_the_outline_of_the_mesh_are_soft_and_nothing_else_changes() -> None:
    mesh = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
    mesh[..., :6] = True
    other, own = torch.zeros(1, 1, 8, 12), torch.ones(1, 1, 8, 12)
    soft = soft_edges(mesh.float(), mesh, other)
    torch.testing.assert_close(soft[0, 0, 4], torch.tensor([1.0] * 5 + [0.75, 0.25] + [0.0] * 5))
    # Where the photograph's matte continues beyond the mesh, as in hair, there is no step.
    matte = torch.linspace(1, 0, 12).expand(1, 1, 8, 12)
    torch.testing.assert_close(soft_edges(matte, mesh, other), matte, atol=0.1, rtol=0)
    strands = torch.rand(1, 1, 8, 12)
    away = torch.ones_like(mesh)
    away[..., 5:7] = False
    assert torch.equal(soft_edges(strands, mesh, other)[away], strands[away])
    # In the photograph's own view its matte needs no softening.
    assert torch.equal(soft_edges(strands, mesh, own), strands)


def test_a_slanted_outline_of_the_mesh_has_no_stairs() -> None:
    """Against the area that the mesh covers of a pixel, softened to the width of the edge."""
    size, slope = 256, 0.1
    fine = torch.arange(8 * size) / 8 + 1 / 16
    inside = (fine[None, :] < 100 + slope * fine[:, None]).float()[None, None]
    exact = torch.nn.functional.avg_pool2d(inside, 8)
    mesh = inside[..., 4::8, 4::8] > 0.5
    soft = soft_edges(mesh.float(), mesh, torch.zeros(1, 1, size, size))
    wanted = torch.nn.functional.avg_pool2d(exact, (1, 3), stride=1, padding=(0, 1))
    interior = (..., slice(8, -8), slice(8, -8))
    error, stairs = ((each - wanted)[interior].abs() for each in (soft, mesh.float()))
    assert error.max() < 0.25
    assert stairs.max() > 0.4
    # Along the outline the opacity changes evenly.
    column = soft[0, 0, 8:-8, 110]
    assert column.diff().abs().max() < 0.12


def test_a_gap_between_a_jaw_and_hanging_hair_is_hair() -> None:
    opacity = torch.zeros(1, 1, 200, 200)
    opacity[..., :100] = opacity[..., 106:140] = 1
    hair = torch.zeros_like(opacity)
    hair[..., 106:140] = 1
    gaps = hair_gaps(opacity, hair)
    assert gaps[..., 20:180, 101:105].min() > 0.4
    # Wider openings stay open, and so does a gap beside anything but hair.
    assert gaps[..., 150:].max() == 0
    assert hair_gaps(opacity, torch.zeros_like(hair)).max() == 0


def test_pixels_from_inside_the_source_are_refused_beside_the_mesh() -> None:
    at = torch.tensor([[[[0.0, 0.05, 0.1]]]])
    assert same_side(at, torch.full_like(at, 0.05))[0, 0, 0].tolist() == pytest.approx(
        [0, 1, 0.062], abs=0.01
    )


def test_lips_shade_teeth_beside_them_and_not_those_that_the_photograph_shows() -> None:
    mouth = torch.zeros(1, 1, 256, 256)
    mouth[..., 100:140, 60:200] = 1
    mouth[..., 200:203, 60:200] = 1
    shadow = lip_shadow(mouth)[0, 0, :, 130]
    assert float(shadow[120]) == 0
    # Narrow lips leave no light, wide ones shade a few pixels.
    assert float(shadow[201]) == pytest.approx(SHADOW)
    assert 0.7 * SHADOW < float(shadow[100]) <= SHADOW
    assert torch.equal(shadow[100:120], shadow[100:120].sort(descending=True).values)
    layers = torch.zeros(1, NUM_CARRIED, 256, 256)
    layers[:, RGB], layers[:, IN_MOUTH], layers[:, MATTE], layers[:, KNOWN] = 0.8, mouth, 1.0, 1.0
    layers[0, VISIBILITY, :, :130] = 1.0
    everywhere = torch.ones(1, 1, 256, 256, dtype=torch.bool)
    rgb, _ = blend(None, torch.full((1, 3, 256, 256), 0.8), layers, everywhere, torch.zeros(1, 1, 256, 256))
    assert rgb[0, :, 201, 90].tolist() == pytest.approx([0.8] * 3, abs=0.01)
    assert rgb[0, :, 201, 170].tolist() == pytest.approx([0.8 * (1 - SHADOW)] * 3, abs=0.01)


def test_no_hair_is_added_between_a_crown_and_the_border_of_the_image() -> None:
    opacity = torch.zeros(1, 1, 256, 256)
    # A crown 6 pixels below the border, long hair that the lower border cuts, and a gap in it.
    opacity[..., 6:120, 80:180] = 1
    opacity[..., 120:, 40:120] = opacity[..., 120:, 126:220] = 1
    gaps = hair_gaps(opacity, opacity)
    assert float(gaps[..., :5, :].max()) == 0
    assert float(gaps[..., 240:, 121:125].min()) > 0.5


def test_holes_in_a_turned_mesh_are_closed_and_those_of_the_photographs_own_view_are_real() -> None:
    """The mesh of a neck is wider than the neck: the photograph shows background there."""
    layers = torch.zeros(1, NUM_CARRIED, 128, 128)
    layers[:, KNOWN] = layers[:, MATTE] = layers[:, VISIBILITY] = 1
    layers[:, MATTE, 60:64, 60:64] = layers[:, MATTE, 20:50, 20:50] = 0
    mesh = torch.ones(1, 1, 128, 128, dtype=torch.bool)
    for own_view, narrow in ((0.0, 1.0), (1.0, 0.0)):
        layers[:, OWN_VIEW] = own_view
        _, mask = blend(None, torch.zeros(1, 3, 128, 128), layers, mesh, torch.zeros(1, 1, 128, 128))
        assert mask[0, 0, 60:64, 60:64].mean() == pytest.approx(narrow, abs=0.1)
        assert mask[0, 0, 25:45, 25:45].max() < 0.01


def test_contours_inside_the_mesh_are_as_smooth_as_covered_in_parts() -> None:
    """A slanted edge of a near plane before a far one, against sixteen samples per pixel."""
    rows, columns = torch.meshgrid(torch.arange(1024), torch.arange(1024), indexing="ij")
    fine = (columns + 0.37 * rows < 700).float()[None, None]
    covered = F.avg_pool2d(fine, 4)
    near = fine[..., 2::4, 2::4]
    rgb = near.expand(-1, 3, -1, -1)
    mesh = torch.ones_like(near, dtype=torch.bool)
    depth = 0.2 - 0.1 * near
    soft = soft_contours(rgb, depth, mesh, torch.ones_like(near))
    # The edge of a photograph is two pixels wide, too.
    expected = smoothed(covered).expand(-1, 3, -1, -1)
    before = (rgb - expected).square().mean()
    assert (soft - expected).square().mean() < 0.25 * before
    assert soft.min() >= 0
    assert soft.max() <= 1
    # What a photograph shows itself, and slopes without a jump, stay as they are.
    assert torch.equal(soft_contours(rgb, depth, mesh, torch.zeros_like(near)), rgb)
    assert torch.equal(
        soft_contours(rgb, columns[None, None, ::4, ::4] / 1024, mesh, torch.ones_like(near)), rgb
    )


def test_thin_strips_that_no_photograph_shows_take_the_colours_beside_them() -> None:
    """The rim of a lid between lashes and eyeball; but not a whole hidden side, nor the line of a mouth."""
    rgb, shown = torch.full((1, 3, 256, 256), 0.2), torch.ones(1, 1, 256, 256)
    in_mouth = torch.zeros(1, 1, 256, 256)
    for rows in (slice(50, 52), slice(100, 102), slice(200, 256)):
        shown[:, :, rows] = 0
        rgb[:, :, rows] = 0.9
    in_mouth[:, :, 100:102] = 1
    filled = without_thin_fills(rgb, shown, in_mouth, torch.ones_like(shown, dtype=torch.bool))
    assert filled[:, :, 50:52].max() < 0.25
    assert torch.equal(filled[:, :, 100:102], rgb[:, :, 100:102])
    assert torch.equal(filled[:, :, 202:], rgb[:, :, 202:])
