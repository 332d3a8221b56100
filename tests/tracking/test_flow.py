"""Poses refined by how the head looks."""

import dataclasses

import numpy as np
import pytest
import torch

from datamodules.shards import typical_frame
from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.head import HeadModel, load_head
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.tracking.flow import FLOW_SIZE, FlowRefinement, typical_row
from rome_lightning.tracking.gauss_newton import FrameState
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.types import HeadParams

COUNT = 6
SIDE = 512
"""Of the square in the states' pixels: twice the pictures'."""


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def states(head: HeadModel) -> FrameState:
    """A reference, then heads that turn by up to 12 degrees with open mouths and raised brows."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.rand(COUNT, 3, generator=generator) - 0.5
    turn[0] = 0
    expression = torch.zeros(COUNT, head.num_expression)
    names = head.expression_names
    expression[1:, names.index("jawOpen")] = torch.rand(COUNT - 1, generator=generator) * 0.5
    expression[1:, names.index("browInnerUp")] = torch.rand(COUNT - 1, generator=generator)
    return FrameState(
        rotation=axis_angle_to_matrix(turn * 0.4),
        log_scale=torch.full((COUNT,), 1000.0).log() + 0.1 * turn[:, 0],
        shift=torch.tensor([250.0, -240.0]) + 20 * turn[:, 1:],
        expression=expression,
        eyes=torch.zeros(COUNT, 4),
    )


def drawn(head: HeadModel, state: FrameState) -> list[np.ndarray]:
    """Grey pictures of the bare head with a pattern on its skin, drawn in weak perspective."""
    count, zero = len(state.expression), torch.zeros(COUNT, 3)
    params = HeadParams(
        torch.zeros(count, head.num_shape), state.expression, zero, zero, zero, torch.zeros(count, 6), zero
    )
    points = (head(params) @ state.rotation.transpose(1, 2)) * state.log_scale.exp()[:, None, None]
    flip = torch.tensor([1.0, -1.0, -1.0])
    vertices = (points + torch.cat([state.shift, torch.zeros(count, 1)], 1)[:, None]) * flip
    vertices[..., :2] = (vertices[..., :2] + 0.5) * FLOW_SIZE / SIDE - 0.5
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    waves = torch.stack([(rest @ torch.tensor(k) * 150).sin() for k in ([1.0, 0.3, 0], [0.2, 1, 0.4])])
    colour = (0.5 + 0.2 * waves.sum(0))[None, :, None].expand(count, -1, -1)
    ids = get_rasterizer().face_ids(vertices, head.faces, (FLOW_SIZE, FLOW_SIZE))
    image = torch.where(ids[:, None] >= 0, interpolate(vertices, head.faces, ids, colour), 0.9)
    return list((image[:, 0].clamp(0, 1) * 255).byte().numpy())


def refinement(head: HeadModel, reference: FrameState, picture: np.ndarray) -> FlowRefinement:
    model = LandmarkModel.from_head(head)
    inside = np.ones((FLOW_SIZE, FLOW_SIZE), bool)
    return FlowRefinement(head, model, torch.zeros(head.num_shape), reference, picture, inside, SIDE, 12.0)


def disturbed(state: FrameState) -> FrameState:
    """Off by 2.5 degrees, 3 % and 3 pixels."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.nn.functional.normalize(torch.randn(COUNT, 3, generator=generator), dim=1)
    return dataclasses.replace(
        state,
        rotation=axis_angle_to_matrix(turn * 0.044) @ state.rotation,
        log_scale=state.log_scale + 0.03 * turn[:, 0].sign(),
        shift=state.shift + 3 * turn[:, :2].sign(),
    )


def placed(head: HeadModel, state: FrameState) -> torch.Tensor:
    """Vertices of the face in pixels of the pictures."""
    zero = torch.zeros(COUNT, 3)
    shape = torch.zeros(COUNT, head.num_shape)
    params = HeadParams(shape, state.expression, zero, zero, zero, torch.zeros(COUNT, 6), zero)
    points = head(params)[:, head.region("face")] @ state.rotation.transpose(1, 2)
    places = points[..., :2] * state.log_scale.exp()[:, None, None] + state.shift[:, None]
    return places * FLOW_SIZE / SIDE


def misplaced(head: HeadModel, found: FrameState, truth: FrameState) -> torch.Tensor:
    """Mean distance of the face's vertices in each frame, pixels of the pictures."""
    return (placed(head, found) - placed(head, truth)).norm(dim=-1).mean(1)


UNIT = torch.full((COUNT,), 63.0)


def test_disturbed_poses_are_found_again(head: HeadModel) -> None:
    """The truth drew the pictures, without the perspective and the depth that the refinement expects."""
    truth = states(head)
    pictures, start = drawn(head, truth), disturbed(truth)
    found = refinement(head, truth.select(slice(0, 1)), pictures[0]).refined(start, pictures, UNIT)
    assert misplaced(head, start, truth).min() > 1.5
    assert misplaced(head, found, truth).max() < 0.35
    assert (found.log_scale - truth.log_scale).abs().max() < 0.006

    def turn(state: FrameState) -> torch.Tensor:
        return matrix_to_axis_angle(state.rotation @ truth.rotation.transpose(1, 2)).norm(dim=1)

    # Rotation and displacement are hard to tell apart, so the rotation of the landmarks counts.
    assert turn(found).max() < 0.8 * turn(start).min()
    assert torch.equal(found.expression, truth.expression)
    assert torch.equal(found.eyes, truth.eyes)


def test_pictures_without_evidence_change_nothing(head: HeadModel) -> None:
    truth = states(head)
    pictures, start = drawn(head, truth), disturbed(truth)
    method = refinement(head, truth.select(slice(0, 1)), pictures[0])
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, FLOW_SIZE, FLOW_SIZE), np.uint8)
    found = method.refined(start, list(noise), UNIT)
    for name, value in vars(start).items():
        assert torch.equal(getattr(found, name), value), name
    grey = np.full_like(pictures[0], 128)
    found = refinement(head, truth.select(slice(0, 1)), grey).refined(start, [grey] * COUNT, UNIT)
    assert misplaced(head, found, start).max() < 1e-3


def test_what_the_video_does_not_show_is_not_compared(head: HeadModel) -> None:
    """Left of a border, pictures are black; that edge does not hold the head."""
    truth = states(head)
    pictures, start = drawn(head, truth), disturbed(truth)
    border = FLOW_SIZE // 2
    for picture in pictures:
        picture[:, :border] = 0
    method = refinement(head, truth.select(slice(0, 1)), pictures[0])
    method.inside = np.zeros((FLOW_SIZE, FLOW_SIZE), bool)
    method.inside[:, border:] = True
    known = misplaced(head, method.refined(start, pictures, UNIT), truth)
    method.inside[:] = True
    fooled = misplaced(head, method.refined(start, pictures, UNIT), truth)
    assert known.max() < 1.5
    assert known.mean() < 0.7 * fooled.mean()


def test_the_reference_is_the_typical_frame_of_the_data(head: HeadModel) -> None:
    expression = torch.rand(10, head.num_expression, generator=torch.Generator().manual_seed(2))
    assert typical_row(expression) == typical_frame(expression.numpy(), range(10))
