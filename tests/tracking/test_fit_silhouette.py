import dataclasses

import pytest
import torch

from rome_lightning.baking.landmark_views import random_params
from rome_lightning.geometry import axis_angle_to_matrix, project
from rome_lightning.head import HeadModel
from rome_lightning.head.open_head import load_open_head
from rome_lightning.renderer import get_rasterizer
from rome_lightning.tracking.fit import FitSettings, fit_clip
from rome_lightning.tracking.gauss_newton import FrameState
from rome_lightning.tracking.silhouette import THRESHOLD, SilhouetteTerm
from rome_lightning.types import HeadParams

SIZE = 256


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_open_head()


def truth_of(head: HeadModel, count: int) -> HeadParams:
    params = random_params(head, count, torch.Generator().manual_seed(0))
    camera = torch.tensor([5.0, 0.0, 0.0]).repeat(count, 1)
    return dataclasses.replace(params, shape=params.shape[:1].repeat(count, 1), camera=camera)


def observe(head: HeadModel, params: HeadParams) -> torch.Tensor:
    points = head.landmarks(head.to_world(head(params), params))
    return project(points, params.camera, (SIZE, SIZE))


def covered(head: HeadModel, params: HeadParams) -> torch.Tensor:
    vertices = project(head.to_world(head(params), params), params.camera, (SIZE, SIZE))
    return (get_rasterizer().face_ids(vertices, head.faces, (SIZE, SIZE)) >= 0).float()


def test_fit_of_the_open_head_explains_its_own_landmarks(head: HeadModel) -> None:
    truth = truth_of(head, 8)
    observed = observe(head, truth)
    fit = fit_clip(head, observed, (SIZE, SIZE), truth.expression)
    assert fit.residual.max() < 6e-3
    projected = observe(head, fit.params)[..., :2]
    # A few jaw and lid vertices are bound to other joints too, which the linear landmarks ignore.
    assert (projected - fit.landmarks_px).norm(dim=-1).mean() < 0.02


def test_skull_stays_inside_the_person(head: HeadModel) -> None:
    """Landmarks of the mean head, silhouette of a person with a 6 % smaller skull."""
    count = 4
    truth = dataclasses.replace(truth_of(head, count), shape=torch.zeros(count, head.num_shape))
    truth = dataclasses.replace(truth, global_pose=truth.global_pose * 0.3)
    observed = observe(head, truth)
    smaller = dataclasses.replace(truth, camera=truth.camera * torch.tensor([0.94, 1, 1]))
    person = covered(head, smaller)
    scores = truth.expression
    settings = FitSettings(smooth_pose=False)
    plain = fit_clip(head, observed, (SIZE, SIZE), scores, settings=settings)
    bound = fit_clip(head, observed, (SIZE, SIZE), scores, settings=settings, foreground=person)

    def outside(fit) -> torch.Tensor:
        return (covered(head, fit.params) * (1 - person))[:, : SIZE // 2].sum()

    assert outside(bound) < 0.6 * outside(plain)
    assert bound.residual.mean() < 0.012


def test_unknown_everywhere_changes_nothing(head: HeadModel) -> None:
    truth = truth_of(head, 3)
    observed = observe(head, truth)
    plain = fit_clip(head, observed, (SIZE, SIZE), truth.expression)
    ones = fit_clip(head, observed, (SIZE, SIZE), truth.expression, foreground=torch.ones(3, 64, 64))
    zeros = fit_clip(head, observed, (SIZE, SIZE), truth.expression, foreground=torch.zeros(3, 64, 64))
    torch.testing.assert_close(ones.params.shape, plain.params.shape)
    torch.testing.assert_close(zeros.params.shape, plain.params.shape)


def test_gradient_of_the_silhouette_cost(head: HeadModel) -> None:
    """Compare with finite differences; the field is piecewise linear, so only within some percent."""
    params = truth_of(head, 2)
    state = FrameState(
        rotation=axis_angle_to_matrix(params.global_pose * 0.3),
        log_scale=torch.full((2,), 640.0).log(),
        shift=torch.tensor([[128.0, -128.0]]).repeat(2, 1),
        expression=params.expression,
        eyes=torch.zeros(2, 4),
    )
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    person = (((x - 128.0) ** 2 + (y - 128.0) ** 2).sqrt() < 40).float().expand(2, -1, -1)
    term = SilhouetteTerm.build(head, person, SIZE, weight=1.0)
    unit = torch.full((2,), 40.0)
    shape = torch.zeros(head.num_shape)

    def cost(values: torch.Tensor) -> torch.Tensor:
        """Closed-form distance to the disc."""
        axes = state.rotation[:, :2] * state.log_scale.exp()[:, None, None]
        points = (term.points + term.basis @ values) @ axes.transpose(1, 2)
        error = (points.norm(dim=-1) - 40).clamp_min(0) / unit[:, None]
        return (2 * THRESHOLD**2 * ((1 + (error / THRESHOLD) ** 2).sqrt() - 1)).mean(1).sum() / 2

    reference = torch.autograd.functional.jacobian(cost, shape)
    gradient, hessian = term.normal_equations(shape, state, unit)
    cosine = torch.nn.functional.cosine_similarity(gradient, reference, dim=0)
    assert cosine > 0.99
    assert gradient.norm() == pytest.approx(float(reference.norm()), rel=0.1)
    assert torch.linalg.eigvalsh(hessian.double()).min() > -1e-9
