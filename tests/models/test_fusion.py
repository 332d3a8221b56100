"""Several photographs of one person: fused colours, shared offsets, and errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from datamodules.synthetic import SyntheticHeads
from rome_lightning.avatar.refine import refine_offsets
from rome_lightning.models import AvatarModel
from rome_lightning.models.fusion import fuse
from rome_lightning.models.texture import Observation
from rome_lightning.types import Frames, HeadParams
from rome_lightning.types.params import at_rest


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    return perturbed(AvatarModel(small_config())).eval().requires_grad_(False)


def seen_as(colour: torch.Tensor, visibility: torch.Tensor) -> Observation:
    nothing = torch.zeros_like(visibility)
    return Observation(colour, visibility, nothing, visibility, nothing)


def one_person(frames: Frames) -> Frames:
    shape = frames.params.shape[:1].expand(len(frames), -1).contiguous()
    return dataclasses.replace(frames, params=dataclasses.replace(frames.params, shape=shape))


def test_each_point_comes_from_whoever_sees_it() -> None:
    colour = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    visibility = torch.zeros(2, 1, 8, 8)
    visibility[0, :, :, :4] = 1
    visibility[1, :, :, 4:6] = 1
    together = fuse(seen_as(colour, visibility))
    fused, seen = together.colour, together.visibility
    torch.testing.assert_close(fused[0, :, :, :4], colour[0, :, :, :4])
    torch.testing.assert_close(fused[0, :, :, 4:6], colour[1, :, :, 4:6])
    assert seen[0, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]


def test_another_view_counts_where_the_first_sees_next_to_nothing() -> None:
    colour = torch.stack([torch.full((3, 64, 64), 0.2), torch.full((3, 64, 64), 0.8)])
    for seen, expected in ((0.005, 0.8), (0.9, 0.2)):
        # The overlap is too small to treat 0.8 as another exposure of 0.2.
        visibility = torch.zeros(2, 1, 64, 64)
        visibility[:, 0, :8, 6] = torch.tensor([seen, 1.0])[:, None]
        fused = fuse(seen_as(colour, visibility)).colour
        assert float(fused[0, 0, 0, 6]) == pytest.approx(expected, abs=0.02)


def test_another_exposure_is_brought_to_the_firsts() -> None:
    scene = 0.2 + 0.5 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tint = torch.tensor([0.8, 0.9, 1.1]).view(1, 3, 1, 1)
    visibility = torch.ones(2, 1, 16, 16)
    visibility[0, :, :, 8:] = 0
    fused = fuse(seen_as(torch.cat([scene, scene * tint]), visibility)).colour
    # Not rounding: the exposure is accurate to about a hundredth; without it the error is up to 0.14.
    torch.testing.assert_close(fused, scene, atol=0.02, rtol=0)


def test_the_same_photograph_twice_is_one_photograph(model: AvatarModel) -> None:
    photo = random_frames(model.head, 1)
    once, twice = model.encode_person(photo), model.encode_person(photo.repeat_interleave(2))
    # Sums of two equal terms in another order: some rounding of float32, a thousandfold by the untrained,
    # perturbed network and its norms.
    torch.testing.assert_close(twice.texture, once.texture, atol=1e-3, rtol=0)
    torch.testing.assert_close(twice.offsets, once.offsets, atol=1e-6, rtol=0)


def test_other_identities_are_refused(model: AvatarModel) -> None:
    with pytest.raises(ValueError, match="must share one identity; track them together"):
        model.encode_person(random_frames(model.head, 2))


def test_a_second_photograph_carves_what_the_first_cannot_see() -> None:
    """A head that is too long at the back looks right from the front but not from the side."""
    heads = SyntheticHeads(AvatarModel(small_config()).head, SIZE, texture_size=64, rasterizer="torch")
    frames, _ = heads.draw([0, 0], [0, 1])
    model = AvatarModel(small_config(), heads.head).eval()
    views = dataclasses.replace(
        at_rest(frames.params), global_pose=torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.2, 0.0]])
    )
    with torch.no_grad():
        truth = model.encode(frames[slice(0, 1)])
    photos = masks_of(model, truth, views, frames)
    longer = torch.zeros_like(truth.offsets)
    back = heads.head.region("scalp") & (heads.head(at_rest(views))[0, :, 2] < 0)
    longer[:, back] = torch.tensor([0.0, 0.0, -0.06])
    start = dataclasses.replace(truth, offsets=longer)

    def missed(photos: Frames, num_steps: int) -> float:
        """Share of the side view that the refined outline gets wrong."""
        code = dataclasses.replace(start, offsets=refine_offsets(model, longer, photos, num_steps))
        side = model.render(code, views[slice(1, 2)], (SIZE, SIZE)).mesh_mask
        return float((side.float() - everything.foreground_mask[1:]).abs().mean())

    everything = photos
    alone, both = missed(photos[slice(0, 1)], 60), missed(photos, 60)
    assert missed(photos, 0) > 0.02
    assert both < 0.6 * alone


def masks_of(model: AvatarModel, code: object, params: HeadParams, frames: Frames) -> Frames:
    """Photographs whose masks are an avatar's outline."""
    drawn = model.render(code.repeat_interleave(len(params)), params, (SIZE, SIZE))  # type: ignore[attr-defined]
    return dataclasses.replace(
        frames,
        params=params,
        landmarks=torch.full_like(frames.landmarks, SIZE),
        foreground_mask=drawn.mesh_mask.float(),
        regions=torch.zeros_like(frames.regions),
    )
