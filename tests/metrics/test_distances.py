"""Landmark, expression, rotation, mask and jitter metrics against loops and other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rome_lightning.metrics import (
    L1,
    ExpressionDistance,
    Jitter,
    LandmarkDistance,
    MaskIoU,
    RotationDistance,
    expression_distance,
    jitter,
    l1,
    landmark_distance,
    mask_iou,
    rotation_distance,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_landmark_distance_against_loops() -> None:
    a, b = draw(2, 5, 2), draw(2, 5, 2, seed=1)
    expected = [
        sum(math.dist(p, q) for p, q in zip(x, y, strict=True)) / 5
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    assert landmark_distance(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_expression_distance_against_numpy() -> None:
    a, b = draw(3, 52), draw(3, 52, seed=1)
    np.testing.assert_allclose(expression_distance(a, b), np.abs(a.numpy() - b.numpy()).mean(1), atol=1e-6)


def test_rotation_distance_against_scipy() -> None:
    a, b = (Rotation.random(20, random_state=seed) for seed in (0, 1))
    expected = np.rad2deg((a.inv() * b).magnitude())
    ours = rotation_distance(torch.from_numpy(a.as_matrix()), torch.from_numpy(b.as_matrix()))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_small_angles_keep_their_digits() -> None:
    # In single precision the arc cosine of the trace would round this to 0.
    turn = torch.from_numpy(Rotation.from_euler("y", 1e-3, degrees=True).as_matrix()).float()
    assert rotation_distance(turn[None], torch.eye(3)[None]).item() == pytest.approx(1e-3, rel=1e-2)
    assert rotation_distance(torch.eye(3)[None], torch.eye(3)[None]).item() == 0


def test_mask_iou_against_counting() -> None:
    a, b, valid = draw(2, 1, 8, 8), draw(2, 1, 8, 8, seed=1), (draw(2, 1, 8, 8, seed=2) > 0.3).float()
    for value, x, y, v in zip(mask_iou(a, b, valid).tolist(), a, b, valid, strict=True):
        ours = {
            i
            for i, (p, q) in enumerate(zip(x.flatten().tolist(), v.flatten().tolist(), strict=True))
            if p > 0.5 and q
        }
        theirs = {
            i
            for i, (p, q) in enumerate(zip(y.flatten().tolist(), v.flatten().tolist(), strict=True))
            if p > 0.5 and q
        }
        assert value == pytest.approx(len(ours & theirs) / len(ours | theirs))
    assert mask_iou(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).item() == 1


def test_l1_against_numpy_and_with_a_mask() -> None:
    a, b = draw(2, 3, 6, 5), draw(2, 3, 6, 5, seed=1)
    np.testing.assert_allclose(l1(a, b), np.abs(a.numpy() - b.numpy()).mean((1, 2, 3)), atol=1e-6)
    mask = torch.zeros(2, 1, 6, 5)
    mask[..., 1:4, 2:] = 1
    torch.testing.assert_close(l1(a, b, mask), l1(a[..., 1:4, 2:], b[..., 1:4, 2:]))
    assert l1(a, b, torch.zeros_like(mask)).isnan().all()


def test_jitter_is_the_acceleration_that_the_driver_does_not_have() -> None:
    driver, shake = draw(6, 4, 2), draw(6, 4, 2, seed=1)

    # By hand: second differences.
    def mean_acceleration(points: torch.Tensor, t: int) -> float:
        rows = [
            math.hypot(*(points[t + 1, i] - 2 * points[t, i] + points[t - 1, i]).tolist()) for i in range(4)
        ]
        return sum(rows) / 4

    expected = [mean_acceleration(driver + shake, t) - mean_acceleration(driver, t) for t in range(1, 5)]
    assert jitter(driver + shake, driver).tolist() == pytest.approx(expected, abs=1e-5)
    line = torch.arange(6.0)[:, None, None].expand(6, 4, 2)
    assert jitter(line, 3 * line).abs().max() == 0


@pytest.mark.parametrize(
    ("metric", "arguments"),
    [
        (L1, lambda s: (draw(5, 3, 12, 12, seed=s), draw(5, 3, 12, 12, seed=s + 1))),
        (LandmarkDistance, lambda s: (draw(5, 9, 2, seed=s), draw(5, 9, 2, seed=s + 1))),
        (ExpressionDistance, lambda s: (draw(5, 52, seed=s), draw(5, 52, seed=s + 1))),
        (
            RotationDistance,
            lambda s: tuple(
                torch.from_numpy(Rotation.random(5, random_state=s + i).as_matrix()) for i in (0, 1)
            ),
        ),
        (MaskIoU, lambda s: (draw(5, 1, 8, 8, seed=s), draw(5, 1, 8, 8, seed=s + 1))),
    ],
)
def test_classes_do_not_depend_on_batches_and_ranks(metric: type, arguments: object) -> None:
    a, b = arguments(3)  # type: ignore[operator]
    whole, first, second, empty = metric(), metric(), metric(), metric()
    whole.update(a, b)
    first.update(a[:1], b[:1])
    second.update(a[1:], b[1:])
    first.merge_state(second)
    first.merge_state(empty)
    assert first.compute() == whole.compute()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert empty.compute().isnan()


def test_jitter_class_weighs_frames_alike() -> None:
    clips = [(draw(5, 4, 2, seed=s), draw(5, 4, 2, seed=s + 9)) for s in range(2)]
    metric = Jitter()
    for clip in clips:
        metric.update(*clip)
    torch.testing.assert_close(metric.compute(), torch.cat([jitter(*clip) for clip in clips]).mean())
