"""Fitted ears, against ears of known meshes."""

from __future__ import annotations

import pytest
import torch
from helpers import random_params
from torch import Tensor

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.depth import foreshortening
from rome_lightning.renderer import get_rasterizer
from rome_lightning.tracking import ears
from rome_lightning.tracking.ears import fit_ears
from rome_lightning.types import Frames, HeadParams, Region
from rome_lightning.types.params import at_rest

RASTERIZER = get_rasterizer("torch")
SIZE = 192


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def turned(head: HeadModel, degrees: float) -> HeadParams:
    params = at_rest(random_params(head, 1))
    params.global_pose[:, 1] = torch.deg2rad(torch.tensor(degrees))
    return params


def with_ears(head: HeadModel, params: HeadParams, move: Tensor) -> Tensor:
    """Offsets that move the left ear (x > 0) by ``move`` and the right one by its mirror image."""
    offsets = foreshortening(head, head(at_rest(params))).clone()
    for ear, sign in zip(both_ears(head), (1.0, -1.0), strict=True):
        offsets[:, ear] += move * move.new_tensor([sign, 1.0, 1.0])
    return offsets


def both_ears(head: HeadModel) -> tuple[Tensor, Tensor]:
    left = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 0] > 0
    return head.region("ears") & left, head.region("ears") & ~left


def photograph(head: HeadModel, params: HeadParams, offsets: Tensor, hair_over_ears: bool = False) -> Frames:
    """A picture whose labels are those of the visible vertices: skin, hair on the scalp, clothes."""
    world = head.to_world(head(params) + head.turn(offsets, params), params)
    vertices_px = project(world, params.camera, (SIZE, SIZE))
    face_ids = RASTERIZER.face_ids(vertices_px, head.faces, (SIZE, SIZE)).long()
    hair = head.region("scalp", "ears") if hair_over_ears else head.region("scalp")
    labels = torch.full((head.num_vertices,), int(Region.FACE_SKIN))
    labels[hair] = int(Region.HAIR)
    labels[head.region("shoulders")] = int(Region.CLOTHES)
    regions = labels[head.faces[face_ids.clamp_min(0), 0]]
    regions = torch.where(face_ids >= 0, regions, int(Region.BACKGROUND)).to(torch.uint8)
    return Frames(
        image=torch.zeros(1, 3, SIZE, SIZE),
        foreground_mask=(face_ids >= 0)[:, None].float(),
        regions=regions,
        landmarks=torch.zeros(1, 478, 2),
        params=params,
    )


MOVE, UP = torch.tensor([[0.006, -0.008, 0.0], [0.006, 0.004, 0.0]])


def test_ears_are_found_from_the_outline_of_the_skin(head: HeadModel) -> None:
    params = turned(head, 0.0)
    start, true = with_ears(head, params, torch.zeros(3)), with_ears(head, params, MOVE)
    found = fit_ears(head, photograph(head, params, true), RASTERIZER)
    assert not found.requires_grad
    for ear in both_ears(head):
        # Seen from the front: depth is unknown.
        before, after = ((offsets - true)[0, ear, :2].mean(0).norm() for offsets in (start, found))
        assert before == pytest.approx(0.01, abs=1e-6)
        assert after < 0.003
    far = head.region("shoulders", "eyes", "mouth")
    torch.testing.assert_close(found[:, far], start[:, far])


def test_an_ear_that_the_head_hides_mirrors_the_other(head: HeadModel) -> None:
    params = turned(head, 50.0)
    true = with_ears(head, params, MOVE)
    found = fit_ears(head, photograph(head, params, true), RASTERIZER) - with_ears(
        head, params, torch.zeros(3)
    )
    left, right = (found[0, ear].mean(0) for ear in both_ears(head))
    torch.testing.assert_close(left * torch.tensor([-1.0, 1.0, 1.0]), right, rtol=0, atol=5e-4)
    # From this side its height is seen, from the front it is not confused with the hidden one's.
    assert left[1] == pytest.approx(float(MOVE[1]), abs=3e-3)


def test_ears_under_hair_stay(head: HeadModel) -> None:
    params = turned(head, 0.0)
    true = with_ears(head, params, MOVE)
    found = fit_ears(head, photograph(head, params, true, hair_over_ears=True), RASTERIZER)
    torch.testing.assert_close(found, with_ears(head, params, torch.zeros(3)))


def test_people_and_pictures_of_one_person(head: HeadModel) -> None:
    params = turned(head, 0.0)
    true = with_ears(head, params, MOVE)
    photo, other = (photograph(head, params, offsets) for offsets in (true, with_ears(head, params, UP)))
    alone = fit_ears(head, photo, RASTERIZER)
    start = with_ears(head, params, torch.zeros(3))
    each = fit_ears(head, Frames.cat([photo, other]), RASTERIZER, start.expand(2, -1, -1))
    torch.testing.assert_close(each[:1], alone, rtol=0, atol=1e-5)
    assert (each[1] - each[0]).abs().max() > 5e-3
    # Pictures that contradict each other meet in the middle.
    both = fit_ears(head, Frames.cat([photo, other]), RASTERIZER)
    assert both.shape == alone.shape
    ear = both_ears(head)[0]
    heights = [float(offsets[ear, 1].mean()) for offsets in (each[0], both[0], each[1])]
    assert heights == sorted(heights)


def test_modes_of_both_ears_are_mirror_images(head: HeadModel) -> None:
    modes = ears._modes(head, head.template.device)
    mean = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    left, right = both_ears(head)
    mirrored = mean[right] * torch.tensor([-1.0, 1.0, 1.0])
    partner = torch.cdist(mean[left], mirrored).argmin(1)
    expected = modes[1][:, right][:, partner] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(modes[0][:, left], expected, rtol=0, atol=1e-5)
