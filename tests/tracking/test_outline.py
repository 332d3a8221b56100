"""Offsets fitted to outlines, against outlines of known meshes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import SIZE, random_params
from torch import Tensor

from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.depth import foreshortening
from rome_lightning.head.moving import MOVING_REGIONS, moving_vertices
from rome_lightning.losses import laplacian
from rome_lightning.renderer import get_rasterizer
from rome_lightning.tracking import outline
from rome_lightning.tracking.outline import _neighbours_of, _roughness, fit_outline
from rome_lightning.types import Frames, HeadParams, Region
from rome_lightning.types.params import at_rest

RASTERIZER = get_rasterizer("torch")


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def mask_of(head: HeadModel, params: HeadParams, offsets: Tensor) -> Tensor:
    """Pixels covered by the mesh, (b, 1, h, w)."""
    vertices = head(params) + head.turn(offsets.expand(len(params), -1, -1), params)
    vertices_px = project(head.to_world(vertices, params), params.camera, (SIZE, SIZE))
    return (RASTERIZER.face_ids(vertices_px, head.faces, (SIZE, SIZE)) >= 0)[:, None].float()


def swollen(head: HeadModel, params: HeadParams) -> Tensor:
    """Two centimetres of hair along the normals."""
    normals = vertex_normals(head(at_rest(params[slice(0, 1)])), head.faces)
    return normals * 0.02 * head.region("scalp")[:, None]


def frames_with(params: HeadParams, mask: Tensor) -> Frames:
    return Frames(
        image=torch.zeros(len(params), 3, SIZE, SIZE),
        foreground_mask=mask,
        regions=torch.zeros(len(params), SIZE, SIZE, dtype=torch.uint8),
        landmarks=torch.full((len(params), 478, 2), float(SIZE)),
        params=params,
    )


def test_hair_of_a_known_mesh_is_found_from_its_outline(head: HeadModel) -> None:
    params = at_rest(random_params(head, 1))
    true = swollen(head, params)
    wanted, bald = mask_of(head, params, true), mask_of(head, params, torch.zeros_like(true))
    offsets = fit_outline(head, frames_with(params, wanted), RASTERIZER, num_steps=40)
    assert offsets.shape == true.shape
    assert not offsets.requires_grad
    missed = (mask_of(head, params, offsets) - wanted).abs().mean()
    assert missed < 0.3 * (bald - wanted).abs().mean()
    still = ~head.region(*MOVING_REGIONS)
    torch.testing.assert_close(offsets[:, still], foreshortening(head, head(params))[:, still])
    # Along the contour the hair has its true length.
    top = int(head(params)[0, :, 1].argmax())
    assert float(offsets[0, top].norm()) == pytest.approx(0.02, abs=0.01)


def test_pixels_beyond_the_border_say_nothing(head: HeadModel) -> None:
    params = at_rest(random_params(head, 1))
    nothing = foreshortening(head, head(params))
    frames = frames_with(params, mask_of(head, params, swollen(head, params)))
    # Only a strip below the head is known, where nothing must move.
    regions = torch.full_like(frames.regions, int(Region.OUTSIDE))
    unknown = dataclasses.replace(frames, regions=regions)
    torch.testing.assert_close(fit_outline(head, unknown, RASTERIZER, num_steps=5), nothing)
    assert (fit_outline(head, frames, RASTERIZER, num_steps=5) - nothing).abs().max() > 1e-3


def test_bounds_start_and_falloff(head: HeadModel) -> None:
    params = at_rest(random_params(head, 1))
    frames = frames_with(params, torch.ones(1, 1, SIZE, SIZE))
    bounded = fit_outline(head, frames, RASTERIZER, num_steps=10, max_offset=0.004)
    assert bounded.norm(dim=-1).max() <= 0.004 + 1e-6
    start = swollen(head, params)
    torch.testing.assert_close(fit_outline(head, frames, RASTERIZER, start, num_steps=0), start)
    moving, falloff = moving_vertices(head)
    held = fit_outline(head, frames, RASTERIZER, num_steps=3, falloff=torch.zeros_like(falloff))
    torch.testing.assert_close(held, foreshortening(head, head(params)))
    assert len(moving) == len(falloff)


def test_several_people_are_fitted_each_to_their_own(head: HeadModel) -> None:
    params = at_rest(random_params(head, 2))
    hair = swollen(head, params)
    wanted = torch.cat(
        [mask_of(head, params[slice(0, 1)], hair), mask_of(head, params[slice(1, 2)], torch.zeros_like(hair))]
    )
    start = torch.zeros(2, head.num_vertices, 3)
    both = fit_outline(head, frames_with(params, wanted), RASTERIZER, start, num_steps=20)
    scalp = head.region("scalp")
    lengths = both[:, scalp].norm(dim=-1).mean(1)
    assert lengths[0] > 3 * lengths[1]


def test_roughness_is_the_laplacian_loss(head: HeadModel) -> None:
    generator = torch.Generator().manual_seed(0)
    offsets = (0.01 * torch.randn(2, head.num_vertices, 3, generator=generator)).requires_grad_()
    wanted, ours = laplacian(offsets, head.edges), _roughness(offsets, *_neighbours_of(head))
    torch.testing.assert_close(ours, wanted)
    (wanted_gradient,), (gradient,) = (torch.autograd.grad(3 * loss, offsets) for loss in (wanted, ours))
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-9)


def test_more_steps_are_as_large_at_first_and_end_as_small() -> None:
    assert outline._rates(0) == []
    for count in (1, 2, 16, 100):
        rates = outline._rates(count)
        assert len(rates) == count
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] == pytest.approx(1e-3)
    assert rates[:70] == [1e-2] * 70
    assert rates[70] < 1e-2


def test_sixteen_steps_leave_less_than_sixty_small_ones(head: HeadModel) -> None:
    """The reference is the optimizer as it was: the usual betas and 2 mm a step."""
    params = at_rest(random_params(head, 1))
    wanted = mask_of(head, params, 2.5 * swollen(head, params))
    frames = frames_with(params, wanted)
    offsets = fit_outline(head, frames, RASTERIZER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outline, "LEARNING_RATES", (2e-3, 2e-3))
        patch.setattr(outline, "BETAS", (0.9, 0.99))
        before = fit_outline(head, frames, RASTERIZER, num_steps=60)
    missed, missed_before = ((mask_of(head, params, o) - wanted).abs().mean() for o in (offsets, before))
    assert missed <= missed_before
