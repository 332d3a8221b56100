"""FLAME fitted to landmarks: a rotating jaw, unnamed expressions, transferred landmarks."""

import dataclasses
import pickle

import pytest
import torch
from flame_files import make_arrays

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe, nearest_on_surface
from rome_lightning.tracking.fit import fit_clip, landmark_problem
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.gauss_newton import FrameState
from rome_lightning.tracking.jaw import JawLandmarkModel, landmark_model
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import LEFT_IRIS, RIGHT_IRIS

SIZE = 400


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    path = tmp_path_factory.mktemp("flame") / "generic_model.pkl"
    path.write_bytes(pickle.dumps(make_arrays(), protocol=2))
    return add_mediapipe(load_flame(path, num_shape=6, num_expression=4))


def random_params(head: HeadModel, count: int, seed: int = 0) -> HeadParams:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    jaw = normal(count, 3, scale=0.05)
    jaw[:, 0] = 0.3 * torch.rand(count, generator=generator)
    return HeadParams(
        shape=normal(1, head.num_shape, scale=1).expand(count, -1),
        expression=normal(count, head.num_expression, scale=1),
        global_pose=normal(count, 3, scale=0.2),
        neck_pose=torch.zeros(count, 3),
        jaw_pose=jaw,
        eye_pose=torch.zeros(count, 6),
        camera=torch.tensor([5.0, 0.01, 0.02]).expand(count, -1),
    )


def test_landmarks_are_those_of_the_posed_head(head: HeadModel) -> None:
    params = random_params(head, 3)
    model = landmark_model(head)
    assert isinstance(model, JawLandmarkModel)
    found = model.points(params.shape[0], torch.cat([params.expression, params.jaw_pose], dim=1))
    wanted = head.landmarks(head(dataclasses.replace(params, global_pose=torch.zeros(3, 3))), "mediapipe")
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_derivatives_against_differences(head: HeadModel) -> None:
    params, count = random_params(head, 2), 2
    model = JawLandmarkModel.from_head(head, torch.float64)
    observed = torch.rand(count, 478, 3, generator=torch.Generator().manual_seed(1)) * SIZE
    problem = landmark_problem(head, model, observed, torch.zeros(count, 4), FitSettings())
    problem = dataclasses.replace(
        problem, target=problem.target.double(), unit=torch.full((count,), 40.0, dtype=torch.float64)
    )
    shape = params.shape[0].double()
    state = FrameState(
        rotation=torch.eye(3, dtype=torch.float64).repeat(count, 1, 1),
        log_scale=torch.full((count,), 6.5, dtype=torch.float64),
        shift=torch.zeros(count, 2, dtype=torch.float64),
        expression=torch.cat([params.expression, params.jaw_pose], dim=1).double(),
        eyes=torch.full((count, 4), 0.1, dtype=torch.float64),
    )
    # Expression and identity are taken to leave the eyeballs where they are, so the eyes look straight ahead.
    still = dataclasses.replace(state, eyes=torch.zeros_like(state.eyes))
    error, jacobian = problem.linearize(shape, still)
    for column in range(jacobian.shape[-1] - 4):
        step = torch.zeros(count, jacobian.shape[-1], dtype=torch.float64)
        step[:, column] = 1e-6
        ahead, _ = problem.linearize(shape, still.moved(step, problem.unit))
        back, _ = problem.linearize(shape, still.moved(-step, problem.unit))
        torch.testing.assert_close(jacobian[..., column], (ahead - back) / 2e-6, atol=1e-6, rtol=1e-5)
    moved, _ = problem.linearize(shape + torch.eye(6, dtype=torch.float64)[2], still)
    torch.testing.assert_close(problem.shape_jacobian(still)[..., 2], moved - error, atol=1e-9, rtol=0)


def test_a_clip_is_explained(head: HeadModel) -> None:
    params = random_params(head, 12)
    points = project(head.to_world(head(params), params), params.camera, (SIZE, SIZE))
    observed = head.landmarks(points, "mediapipe")
    scores = torch.zeros(12, head.num_expression)
    fit = fit_clip(head, observed, (SIZE, SIZE), scores, settings=FitSettings(smooth_pose=False))
    assert float(fit.residual.max()) < 0.01
    assert float((fit.params.jaw_pose - params.jaw_pose)[:, 0].abs().max()) < 0.05
    assert fit.params.expression.shape == params.expression.shape
    again = project(head.to_world(head(fit.params), fit.params), fit.params.camera, (SIZE, SIZE))
    error = (head.landmarks(again, "mediapipe") - observed)[..., :2].norm(dim=-1).mean()
    assert float(error) < 1.0


def test_carried_landmarks_lie_where_they_belong(head: HeadModel) -> None:
    corners = head.get_buffer("landmark_corners_mediapipe")
    weights = head.get_buffer("landmark_weights_mediapipe")
    assert corners.shape == (478, 3)
    torch.testing.assert_close(weights.sum(1), torch.ones(478))
    eyes = head.region("eyes")[corners].all(1)
    assert eyes.nonzero().flatten().tolist() == sorted([*LEFT_IRIS, *RIGHT_IRIS])
    points = head.landmarks(head.template.view(1, -1, 3), "mediapipe")[0]
    # The subject's left is at positive x.
    assert points[list(LEFT_IRIS), 0].min() > 0 > points[list(RIGHT_IRIS), 0].max()
    jaw = head.skinning_weights[:, 2][corners].mean(1)
    assert float(jaw[17]) > 0.5 > float(jaw[0])


def test_nearest_point_of_a_surface() -> None:
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(12, 3, generator=generator).double().numpy()
    faces = torch.randperm(12, generator=generator).view(4, 3).numpy()
    points = torch.randn(50, 3, generator=generator).double().numpy()
    chosen, weights = nearest_on_surface(points, vertices, faces)
    found = (vertices[faces[chosen]] * weights[..., None]).sum(1)
    # Brute force: a fine grid of weights on every triangle.
    grid = torch.tensor(
        [(a / 60, b / 60, 1 - (a + b) / 60) for a in range(61) for b in range(61 - a)]
    ).numpy()
    samples = torch.from_numpy((grid @ vertices[faces]).reshape(-1, 3))
    nearest = torch.cdist(torch.from_numpy(points), samples).min(1).values
    distance = torch.from_numpy(found - points).norm(dim=1)
    assert (distance <= nearest + 1e-9).all()
    assert (nearest - distance).max() < 0.05
