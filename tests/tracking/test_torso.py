"""The torso's motion found again in drawn pictures of a head whose torso moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle, project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.tracking.fit import consecutive_runs, landmark_problem
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.flow import FLOW_SIZE
from rome_lightning.tracking.gauss_newton import FrameState
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.tracking.to_params import to_params
from rome_lightning.tracking.torso import TorsoMotion, observe_torso

COUNT = 9
SIDE = 512
"""Of the square in the states' pixels: twice the pictures'."""


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


class Pictures(list[np.ndarray]):
    """Drawn pictures in place of a clip's."""

    inside = np.ones((FLOW_SIZE, FLOW_SIZE), bool)


def states(head: HeadModel) -> FrameState:
    """Heads that turn by up to 12 degrees."""
    turn = torch.rand(COUNT, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    return FrameState(
        rotation=axis_angle_to_matrix(turn * 0.4),
        log_scale=torch.full((COUNT,), 1000.0).log() + 0.1 * turn[:, 0],
        shift=torch.tensor([250.0, -200.0]) + 20 * turn[:, 1:],
        expression=torch.zeros(COUNT, head.num_expression),
        eyes=torch.zeros(COUNT, 4),
    )


def motion() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth shifts by up to 3 cm (axes x and y) and turns by up to 5 degrees (yaw and roll)."""
    time = torch.linspace(0, 3, COUNT)
    zero = torch.zeros(COUNT)
    shift = torch.stack([0.03 * time.sin(), 0.015 * (2 * time).cos(), zero], -1)
    shift = shift - shift.median(0).values
    return shift, torch.stack([zero, 0.05 * time.cos(), 0.08 * (1.5 * time).sin()], -1)


def drawn(head: HeadModel, state: FrameState, bust: torch.Tensor, shift: torch.Tensor) -> Pictures:
    """Grey pictures of the bare head with a pattern on its skin."""
    shape = torch.zeros(head.num_shape)
    params = to_params(head, LandmarkModel.from_head(head), shape, state, bust, (SIDE, SIDE), shift)
    pixels = project(head(params, in_world=True), params.camera, (FLOW_SIZE, FLOW_SIZE))
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    waves = torch.stack([(rest @ torch.tensor(k) * 150).sin() for k in ([1.0, 0.3, 0], [0.2, 1, 0.4])])
    colour = (0.5 + 0.2 * waves.sum(0))[None, :, None].expand(COUNT, -1, -1)
    ids = get_rasterizer().face_ids(pixels, head.faces, (FLOW_SIZE, FLOW_SIZE))
    image = torch.where(ids[:, None] >= 0, interpolate(pixels, head.faces, ids, colour), 0.9)
    return Pictures((image[:, 0].clamp(0, 1) * 255).byte().numpy())


def observed(head: HeadModel, state: FrameState, pictures: Pictures, sigma: float = 0.1) -> TorsoMotion:
    model = LandmarkModel.from_head(head)
    landmarks = torch.rand(COUNT, 478, 3, generator=torch.Generator().manual_seed(0)) * SIDE
    settings = FitSettings(torso_sigma=sigma)
    problem = landmark_problem(head, model, landmarks, torch.zeros(COUNT, head.num_expression), settings)
    runs = consecutive_runs(torch.ones(COUNT, dtype=torch.bool))
    bust = torch.eye(3).expand(COUNT, 3, 3)
    shape = torch.zeros(head.num_shape)
    return observe_torso(head, problem, shape, state, bust, pictures, range(COUNT), runs, SIDE)  # type: ignore[arg-type]


def torso(head: HeadModel, state: FrameState, bust: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Visible vertices that the neck does not move, pixels of the pictures."""
    shape = torch.zeros(head.num_shape)
    params = to_params(head, LandmarkModel.from_head(head), shape, state, bust, (SIDE, SIDE), shift)
    places = project(head(params, in_world=True), params.camera, (FLOW_SIZE, FLOW_SIZE))
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    rows = (head.to_vertices(head.skinning_weights[:, 0]) == 1) & (rest[:, 2] > rest[:, 2].median())
    return places[:, rows, :2]


@torch.no_grad()
def test_shift_and_turn_are_found_again(head: HeadModel) -> None:
    """All frames are equally typical, so the first is the reference."""
    state, still = states(head), torch.eye(3).expand(COUNT, 3, 3)
    shift, turn = motion()
    shift, turn = shift - shift[:1], turn - turn[:1]
    rotation = axis_angle_to_matrix(turn)
    found = observed(head, state, drawn(head, state, rotation, shift))
    truth = torso(head, state, rotation, shift)
    before = torso(head, state, still, torch.zeros(COUNT, 3))
    # Only the median of the shift is a convention.
    after = torso(head, state, found.rotation, found.shift - found.shift[:1])
    assert float((before - truth).norm(dim=-1).mean(1).max()) > 12
    assert float((after - truth).norm(dim=-1).mean(1).max()) < 1.0
    # A turn and a shift to the side look alike, a roll looks like nothing else.
    assert float((matrix_to_axis_angle(found.rotation) - turn)[:, 2].abs().max()) < 0.01
    assert float(turn[:, 2].abs().max()) > 0.07
    assert float(found.shift[:, :2].median(0).values.abs().max()) == 0


@torch.no_grad()
def test_pictures_that_tell_nothing_leave_it_to_their_neighbours(head: HeadModel) -> None:
    state = states(head)
    shift, _ = motion()
    still = torch.eye(3).expand(COUNT, 3, 3)
    pictures = drawn(head, state, still, shift)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (FLOW_SIZE, FLOW_SIZE), np.uint8) for _ in range(COUNT)]
    nothing = observed(head, state, Pictures([pictures[0], *noise[1:]]))
    assert float(nothing.shift[1:].abs().max()) < 1e-6
    pictures[4] = noise[4]
    alone, filled = (observed(head, state, pictures, sigma) for sigma in (0.1, 1.0))
    middle = (filled.shift[3] + filled.shift[5]) / 2
    assert float((filled.shift[4] - middle).norm()) < 0.2 * float((alone.shift[4] - middle).norm())


@torch.no_grad()
def test_the_head_does_not_move_with_the_torso(head: HeadModel) -> None:
    state, model = states(head), LandmarkModel.from_head(head)
    shift, turn = motion()

    def places(bust: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        shape = torch.zeros(head.num_shape)
        params = to_params(head, model, shape, state, bust, (SIDE, SIDE), shift)
        return project(head(params, in_world=True), params.camera, (SIDE, SIDE))

    before = places(torch.eye(3).expand(COUNT, 3, 3), torch.zeros(COUNT, 3))
    after = places(axis_angle_to_matrix(turn), shift)
    share = head.to_vertices(head.skinning_weights[:, 0])
    torch.testing.assert_close(after[:, share == 0, :2], before[:, share == 0, :2], atol=0.01, rtol=0)
    only = places(torch.eye(3).expand(COUNT, 3, 3), shift)
    moved = (only - before)[:, share == 1, :2] / state.log_scale.exp()[:, None, None]
    wanted = (shift[:, None, :2] * torch.tensor([1.0, -1.0])).expand_as(moved)
    torch.testing.assert_close(moved, wanted, atol=1e-4, rtol=0)
