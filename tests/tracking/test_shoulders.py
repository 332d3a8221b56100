"""Shoulders over time, on landmarks of synthetic clips whose torso is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.tracking import ClipFit, FitSettings, fit_clip
from rome_lightning.tracking.shoulders import gaussian_mean, local_line
from rome_lightning.types import HeadParams

SIZE = 256
FRAMES = 40
OFF = FitSettings(scale_sigma=0.1, neck_sigma=0.1, shoulder_sigma=0.1)
"""A Gaussian of a tenth of a frame does not average."""


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def turning(head: HeadModel, degrees: float, travel: float = 0.0) -> HeadParams:
    """A head that turns back and forth over a rigid torso, which moves sideways at constant speed, metres."""
    truth = HeadParams.neutral(FRAMES, head.num_shape, head.num_expression)
    time = torch.linspace(0, 1, FRAMES)
    yaw = torch.deg2rad(torch.tensor(degrees)) * (2 * torch.pi * time).sin()
    neck, camera = torch.zeros(FRAMES, 3), truth.camera.clone()
    neck[:, 1] = yaw
    camera[:, 1] += travel * (time - 0.5)
    return dataclasses.replace(truth, neck_pose=neck, camera=camera)


def shoulders(head: HeadModel, params: HeadParams) -> torch.Tensor:
    """Vertices that the neck does not move, pixels."""
    rows = head.region("shoulders")[: head.num_carriers] & (head.skinning_weights[:, 0] == 1)
    vertices = head(params, in_world=True)[:, rows.nonzero().flatten()]
    return project(vertices, params.camera, (SIZE, SIZE))[..., :2]


def fitted(head: HeadModel, truth: HeadParams, noise: float, settings: FitSettings) -> ClipFit:
    points = project(head.landmarks(head(truth, in_world=True)), truth.camera, (SIZE, SIZE))
    shake = torch.randn(FRAMES, 1, 3, generator=torch.Generator().manual_seed(0))
    own = torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    # The detector's noise is mostly common to neighbouring landmarks: it tilts and scales the face.
    centre = points.mean(1, keepdim=True)
    tilt = 1 + 0.01 * noise * shake
    points = centre + (points - centre) * tilt + noise * (0.2 * own + 0.2 * shake)
    return fit_clip(head, points, (SIZE, SIZE), torch.zeros(FRAMES, head.num_expression), settings=settings)


def shaking(track: torch.Tensor) -> float:
    """Mean second difference over time, pixels."""
    return float((track[2:] - 2 * track[1:-1] + track[:-2]).norm(dim=-1).mean())


@torch.no_grad()
def test_noise_shakes_the_shoulders_less_than_half_as_much(head: HeadModel) -> None:
    truth = turning(head, 20)
    before, after = (fitted(head, truth, 1.0, settings) for settings in (OFF, FitSettings()))
    assert shaking(shoulders(head, after.params)) < 0.5 * shaking(shoulders(head, before.params))
    # The face hardly suffers.
    assert float(after.residual.mean()) < 1.03 * float(before.residual.mean())


@torch.no_grad()
def test_a_turning_head_leaves_the_torso_where_it_is(head: HeadModel) -> None:
    truth = turning(head, 25)
    fit = fitted(head, truth, 0.0, FitSettings())
    seen, wanted = shoulders(head, fit.params), shoulders(head, truth)
    assert float((wanted - wanted[:1]).abs().max()) < 1e-2
    iris = float((fit.landmarks_px[:, 468] - fit.landmarks_px[:, 473]).norm(dim=-1).max())
    assert float((seen - seen.mean(0)).norm(dim=-1).mean()) < 0.03 * iris


@torch.no_grad()
def test_a_torso_that_moves_is_followed(head: HeadModel) -> None:
    truth = turning(head, 10, travel=0.1)
    seen = shoulders(head, fitted(head, truth, 0.0, FitSettings()).params)
    moved, wanted = (track[-5] - track[5] for track in (seen, shoulders(head, truth)))
    assert float(moved[:, 0].mean()) == pytest.approx(float(wanted[:, 0].mean()), rel=0.1)


def test_gaussian_mean_is_a_weighted_mean_that_ends_at_the_ends() -> None:
    values = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    found = gaussian_mean(values, 1.5)
    for row in range(9):
        near = [other for other in range(9) if abs(other - row) <= 4]
        weights = torch.tensor([2.718281828 ** (-0.5 * ((other - row) / 1.5) ** 2) for other in near])
        expected = (values[near] * weights[:, None]).sum(0) / weights.sum()
        torch.testing.assert_close(found[row], expected)
    assert torch.equal(gaussian_mean(values, 0.1), values)


def test_local_line_is_weighted_regression_and_keeps_even_motion() -> None:
    values = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = local_line(values, 1.5)
    for row in range(12):
        near = np.arange(max(0, row - 4), min(12, row + 5))
        root = np.exp(-0.25 * ((near - row) / 1.5) ** 2)
        for column in range(2):
            line = np.polyfit(near, values[near, column].numpy(), 1, w=root)
            assert float(found[row, column]) == pytest.approx(np.polyval(line, row), abs=1e-5)
    even = torch.arange(12.0)[:, None] * torch.tensor([1.0, -3.0]) + 5
    torch.testing.assert_close(local_line(even, 3.0), even, atol=1e-4, rtol=0)
    torch.testing.assert_close(local_line(values, 0.1), values)
