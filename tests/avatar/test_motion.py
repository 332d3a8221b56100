"""Lost frames are filled as requested, and relative motion keeps the avatar's own pose."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import random_params

from rome_lightning.avatar.motion import fill_lost, relative_motion, runs
from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.head import load_head
from rome_lightning.types import HeadParams

LOST = torch.tensor([True, False, True, True, True, False, True])


@pytest.fixture(scope="module")
def params() -> HeadParams:
    return random_params(load_head("open"), len(LOST))


def test_hold(params: HeadParams) -> None:
    filled, shown = fill_lost(params, LOST, "hold")
    assert shown.tolist() == list(range(7))
    for name, values in vars(params).items():
        assert torch.equal(getattr(filled, name), values[[1, 1, 1, 1, 1, 5, 5]])


def test_skip(params: HeadParams) -> None:
    filled, shown = fill_lost(params, LOST, "skip")
    assert shown.tolist() == [1, 5]
    assert torch.equal(filled.expression, params.expression[[1, 5]])


def test_interpolate(params: HeadParams) -> None:
    turn = torch.zeros(7, 3)
    turn[1], turn[5] = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    given = dataclasses.replace(params, neck_pose=turn)
    filled, shown = fill_lost(given, LOST, "interpolate")
    assert len(shown) == 7
    # At a constant rate about one axis, through the front.
    torch.testing.assert_close(filled.neck_pose[1:6, 1], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(filled.expression[3], params.expression[[1, 5]].mean(0), atol=1e-6, rtol=0)
    assert float(filled.camera[3, 0]) == pytest.approx(
        float((params.camera[1, 0] * params.camera[5, 0]).sqrt())
    )
    for name, values in vars(given).items():
        # Found frames are bit-equal, and the ends are held.
        assert torch.equal(getattr(filled, name)[[0, 1, 5, 6]], values[[1, 1, 5, 5]])


def test_lost_frames_are_never_read(params: HeadParams) -> None:
    broken = params.map(lambda values: torch.where(LOST[:, None], torch.nan, values))
    for how in ("hold", "interpolate", "skip"):
        filled, _ = fill_lost(broken, LOST, how)  # type: ignore[arg-type]
        assert all(bool(values.isfinite().all()) for values in vars(filled).values())


def test_nothing_found(params: HeadParams) -> None:
    with pytest.raises(ValueError, match="all 7 frames of the driver are lost"):
        fill_lost(params, torch.ones(7, dtype=torch.bool), "hold")


def test_relative_motion_starts_from_the_own_pose(params: HeadParams) -> None:
    shift = 0.02 * torch.randn(len(params) + 1, 3, generator=torch.Generator().manual_seed(0))
    own = dataclasses.replace(random_params(load_head("open"), 1, seed=9), torso_shift=shift[:1])
    params = dataclasses.replace(params, torso_shift=shift[1:])
    reference = params[slice(2, 3)]
    moved = relative_motion(params, reference, own)
    for name in ("expression", "neck_pose", "global_pose", "camera", "torso_shift"):
        torch.testing.assert_close(getattr(moved, name)[2], getattr(own, name)[0], atol=1e-5, rtol=0)

    # A rotation keeps its angle and its axis in the image.
    def turned(values: HeadParams, start: HeadParams) -> torch.Tensor:
        return axis_angle_to_matrix(values.global_pose) @ axis_angle_to_matrix(start.global_pose).transpose(
            1, 2
        )

    torch.testing.assert_close(turned(moved, own), turned(params, reference), atol=1e-5, rtol=0)

    # The torso shifts in the image as the driver's does.
    def seen(values: HeadParams) -> torch.Tensor:
        return (axis_angle_to_matrix(values.global_pose) @ values.torso_shift[..., None]).squeeze(-1)

    torch.testing.assert_close(seen(moved) - seen(own), seen(params) - seen(reference), atol=1e-6, rtol=0)
    assert float(moved.expression.min()) >= 0
    assert float(moved.expression.max()) <= 1


def test_runs() -> None:
    assert runs(LOST.nonzero().flatten()) == [(0, 0), (2, 4), (6, 6)]
    assert runs(torch.tensor([], dtype=torch.long)) == []
