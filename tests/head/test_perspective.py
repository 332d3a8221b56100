"""A camera close to the face."""

import dataclasses

import pytest
import torch
from helpers import SIZE, random_frames, small_config

from rome_lightning.geometry import project
from rome_lightning.head.perspective import FARTHEST, Perspective
from rome_lightning.models import AvatarModel
from rome_lightning.models.config import AvatarConfig
from rome_lightning.types import Frames, HeadParams
from rome_lightning.types.params import at_rest

DISTANCE = 0.6


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    config = dataclasses.replace(small_config(kind="fitted"), camera_distance=DISTANCE)
    return AvatarModel(config).eval().requires_grad_(False)


def posed(model: AvatarModel) -> tuple[Frames, torch.Tensor]:
    """A photograph of a rotated head with an open mouth and offsets of about a centimetre."""
    frames = random_frames(model.head, 2)
    params = dataclasses.replace(
        frames.params,
        global_pose=torch.tensor([[0.2, 0.4, 0.1], [0.0, -0.3, 0.0]]),
        neck_pose=torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.1, 0.0]]),
        jaw_pose=torch.tensor([[0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    offsets = 0.01 * torch.randn(2, model.head.num_vertices, 3)
    return dataclasses.replace(frames, params=params, offsets=offsets), offsets


def test_networks_in_half_precision_leave_the_geometry_alone(model: AvatarModel) -> None:
    frames, offsets = posed(model)
    assert model.perspective is not None
    single = model.perspective.lifted(offsets, frames.params)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.perspective.lifted(offsets, frames.params), single)
        # The whole model too, from photograph to image.
        drawn = model(frames, frames.params, torch.ones(2, 3))
    assert drawn.vertices_px.dtype == torch.float32
    assert drawn.image.isfinite().all()


def test_its_own_photograph_looks_as_it_was_fitted(model: AvatarModel) -> None:
    """The avatar's mesh projects to the same place as in weak perspective, where its offsets were fitted."""
    photo, offsets = posed(model)
    params = photo.params
    vertices = model.head(params) + model.head.turn(offsets, params)
    wanted = project(model.head.to_world(vertices, params), params.camera, (256, 256))
    code = model.encode(photo)
    found = model.project(model.deform(code, params).vertices, params, (256, 256))
    assert (found - wanted)[..., :2].norm(dim=-1).max() < 0.3
    assert (found - wanted)[..., :2].norm(dim=-1).mean() < 0.05
    assert (code.offsets - offsets).norm(dim=-1).max() > 0.005
    torch.testing.assert_close(model.reconstruct(photo).vertices, model.deform(code, params).vertices)


def test_lifting_and_flattening_are_inverse(model: AvatarModel) -> None:
    assert model.perspective is not None
    photo, offsets = posed(model)
    lifted = model.perspective.lifted(offsets, photo.params)
    torch.testing.assert_close(model.perspective.flattened(lifted, photo.params), offsets, atol=2e-4, rtol=0)


def test_a_turn_moves_what_is_behind_less_than_without_perspective(model: AvatarModel) -> None:
    """A pinhole camera at that distance from the eyes, computed by hand."""
    head = model.head
    params = at_rest(random_frames(head, 1).params)
    world = head.to_world(head(params), params)
    eyes = world[0, head.region("eyes")].mean(0)
    seen = Perspective(head, DISTANCE).seen(world)[0]
    depth = eyes[2] - world[0, :, 2]
    assert pytest.approx(float(depth[head.region("ears")].mean()), abs=0.01) == FARTHEST
    for points, distance in (
        ((depth > 0) & (depth < FARTHEST), DISTANCE + depth[:, None]),
        (depth > FARTHEST, torch.full_like(depth, DISTANCE + FARTHEST)[:, None]),
    ):
        assert int(points.sum()) > 100
        wanted = eyes[:2] + (world[0, :, :2] - eyes[:2]) * DISTANCE / distance
        torch.testing.assert_close(seen[points, :2], wanted[points], atol=1e-6, rtol=0)
    front = world[0, :, 2] > eyes[2]
    torch.testing.assert_close(seen[front], world[0, front])
    torch.testing.assert_close(seen[:, 2], world[0, :, 2])


def test_a_model_without_distance_draws_as_before() -> None:
    torch.manual_seed(0)
    model = AvatarModel(small_config(kind="fitted"))
    assert model.perspective is None
    frames = random_frames(model.head, 1)
    params: HeadParams = frames.params
    vertices = model.head(params)
    wanted = project(model.head.to_world(vertices, params), params.camera, (SIZE, SIZE))
    assert torch.equal(model.project(vertices, params, (SIZE, SIZE)), wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"camera_distance": 0.0}, "above 0"), ({"camera_distance": DISTANCE}, "avatar.offsets.kind fitted")],
)
def test_distances_that_cannot_be_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AvatarConfig(**changes)
