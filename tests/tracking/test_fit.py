import dataclasses

import pytest
import torch

from rome_lightning.geometry import axis_angle_to_matrix, project
from rome_lightning.head import HeadData, HeadModel, LandmarkEmbedding
from rome_lightning.head.data import REGIONS
from rome_lightning.tracking.fit import (
    FitSettings,
    _check,
    fit_clip,
    initial_state,
    landmark_weights,
    match_blendshapes,
)
from rome_lightning.tracking.gauss_newton import FrameState, LandmarkProblem, bounded_step
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.tracking.to_params import eye_axis_angle
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import LEFT_IRIS, NUM_SKIN, RIGHT_IRIS

EXPRESSIONS = ("jawOpen", "mouthClose", "eyeBlinkLeft", "smile", "frown", "browUp")
SIZE = 400


def toy_head(num_shape: int = 8) -> HeadModel:
    """A half ellipsoid with two eyeballs; each landmark is a vertex (and a midpoint) of its own triangle."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(NUM_SKIN, 3, generator=generator)
    direction[:, 2] = direction[:, 2].abs()
    points = torch.nn.functional.normalize(direction, dim=1) * torch.tensor([0.075, 0.11, 0.09])
    joints = torch.tensor(
        [[0, 0, 0], [0, -0.1, -0.02], [0, -0.03, 0], [0.032, 0.03, 0.06], [-0.032, 0.03, 0.06]]
    )
    ring = torch.tensor([[0, 0, 12.0], [4, 0, 11], [0, 4, 11], [-4, 0, 11], [0, -4, 11]]) * 1e-3
    irises = torch.cat([joints[4] + ring, joints[3] + ring])
    template = torch.cat([points, irises, joints[1:2] - torch.tensor([0, 0.1, 0])])
    count = len(template)
    phase = torch.randn(num_shape + len(EXPRESSIONS), 3, 3, generator=generator) * 20
    waves = torch.stack([torch.sin(template @ p + p[0]) for p in phase], dim=-1)
    shape_basis, expression_basis = waves[..., :num_shape] * 2e-3, waves[..., num_shape:] * 8e-3
    expression_basis[-11:] = 0
    weights = torch.zeros(count, 5)
    weights[:NUM_SKIN, 1] = 1
    weights[list(RIGHT_IRIS), 4] = 1
    weights[list(LEFT_IRIS), 3] = 1
    weights[-1, 0] = 1
    index = torch.arange(478)
    midpoints = torch.stack([index, index.roll(1)], dim=1)
    faces = torch.stack([index, index.roll(-1), count + index.roll(1)], dim=1)
    bary = torch.tensor([1.0, 0, 0]).repeat(478, 1)
    bary[5] = torch.tensor([0.5, 0.2, 0.3])
    joint_basis = torch.randn(5, 3, num_shape + len(EXPRESSIONS), generator=generator) * 5e-4
    joint_basis[..., num_shape:] = 0
    data = HeadData(
        name="toy",
        template=template,
        shape_basis=shape_basis,
        expression_basis=expression_basis,
        expression_names=EXPRESSIONS,
        joints=joints,
        joint_basis=joint_basis,
        skinning_weights=weights,
        faces=faces,
        uvs=torch.zeros(1, 2),
        uv_faces=torch.zeros_like(faces),
        regions={name: torch.zeros(count + 478, dtype=torch.bool) for name in REGIONS},
        landmarks={"mediapipe": LandmarkEmbedding(torch.arange(478), bary)},
        midpoints=midpoints,
    )
    return HeadModel(data)


def random_params(head: HeadModel, count: int, seed: int = 0) -> HeadParams:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    expression = torch.rand(count, len(EXPRESSIONS), generator=generator)
    expression[:, 1] *= expression[:, 0]
    eyes = eye_axis_angle((normal(count, 2) * 0.15).repeat(1, 2))
    return HeadParams(
        shape=normal(1, head.num_shape).repeat(count, 1) * 0.7,
        expression=expression,
        global_pose=normal(count, 3) * 0.2,
        neck_pose=normal(count, 3) * 0.1,
        jaw_pose=torch.zeros(count, 3),
        eye_pose=eyes,
        camera=torch.tensor([4.0, 0.02, -0.03]) * (1 + 0.1 * normal(count, 1)),
    )


def observe(head: HeadModel, params: HeadParams) -> torch.Tensor:
    """Exact landmarks from the head model itself, not from the solver's linearization."""
    points = head.landmarks(head.to_world(head(params), params))
    return project(points, params.camera, (SIZE, SIZE))


def exact(settings: FitSettings | None = None) -> FitSettings:
    """Settings with priors too weak to matter, so that the truth is the minimum."""
    return dataclasses.replace(
        settings or FitSettings(),
        shape_prior=1e-9,
        expression_prior=1e-9,
        eye_prior=1e-9,
        gaze_prior=1e-9,
        smooth_pose=False,
        shape_steps=20,
    )


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return toy_head()


def test_truth_is_recovered(head: HeadModel) -> None:
    truth = random_params(head, 12)
    observed = observe(head, truth)
    fit = fit_clip(head, observed, (SIZE, SIZE), torch.full((12, len(EXPRESSIONS)), 0.5), settings=exact())
    assert fit.valid.all()
    assert fit.residual.max() < 1e-3
    torch.testing.assert_close(fit.params.expression, truth.expression, atol=0.02, rtol=0)
    torch.testing.assert_close(fit.params.shape, truth.shape, atol=0.1, rtol=0)
    rotation = axis_angle_to_matrix(fit.params.global_pose) @ axis_angle_to_matrix(fit.params.neck_pose)
    expected = axis_angle_to_matrix(truth.global_pose) @ axis_angle_to_matrix(truth.neck_pose)
    torch.testing.assert_close(rotation, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(fit.params.eye_pose, truth.eye_pose, atol=0.03, rtol=0)


def test_eyes_turn_as_far_as_the_irises_show(head: HeadModel) -> None:
    """Eyes that look far to a side, with the usual priors: a prior must not turn them back noticeably."""
    truth = random_params(head, 8, seed=2)
    yaw = torch.linspace(-0.5, 0.5, 8)
    eyes = torch.zeros(8, 6)
    eyes[:, 1] = eyes[:, 4] = yaw
    truth = dataclasses.replace(truth, eye_pose=eyes)
    fit = fit_clip(head, observe(head, truth), (SIZE, SIZE), torch.full((8, len(EXPRESSIONS)), 0.5))
    found = fit.params.eye_pose[:, [1, 4]].mean(1)
    assert ((found @ yaw) / (yaw @ yaw)).item() == pytest.approx(1, abs=0.06)


def test_params_project_to_reported_landmarks(head: HeadModel) -> None:
    """The split between bust and neck must not move the head in the image."""
    observed = observe(head, random_params(head, 7, seed=1))
    fit = fit_clip(head, observed, (SIZE, SIZE), torch.zeros(7, len(EXPRESSIONS)))
    assert fit.params.neck_pose.abs().max() > 0.05
    projected = observe(head, fit.params)[..., :2]
    # float32 at 400 px; the axis-angle logarithm costs a few 1e-6 rad
    torch.testing.assert_close(projected, fit.landmarks_px, atol=5e-3, rtol=0)


def test_jacobian_matches_autograd(head: HeadModel) -> None:
    problem, state, shape = _problem(head, 3)
    _, jacobian = problem.linearize(shape, state)
    by_shape = problem.shape_jacobian(state)
    zero = torch.zeros(3, jacobian.shape[-1], dtype=torch.float64)

    def error_after(step: torch.Tensor) -> torch.Tensor:
        moved = state.moved(step, problem.unit)
        return ((problem.predict(shape, moved) - problem.target) / problem.unit[:, None, None]).transpose(
            1, 2
        )

    reference = torch.func.jacfwd(error_after)(zero)
    for frame in range(3):
        torch.testing.assert_close(
            jacobian[frame].double(), reference[frame, :, :, frame], atol=1e-6, rtol=1e-5
        )
    reference = torch.func.jacfwd(
        lambda s: ((problem.predict(s, state) - problem.target) / problem.unit[:, None, None]).transpose(1, 2)
    )(shape)
    skin = slice(0, NUM_SKIN)
    torch.testing.assert_close(by_shape[:, :, skin].double(), reference[:, :, skin], atol=1e-6, rtol=1e-5)


def _problem(head: HeadModel, count: int) -> tuple[LandmarkProblem, FrameState, torch.Tensor]:
    params = random_params(head, count, seed=3)
    state = FrameState(
        rotation=axis_angle_to_matrix(params.global_pose).double(),
        log_scale=torch.full((count,), 6.5, dtype=torch.float64),
        shift=torch.tensor([[200.0, -190]], dtype=torch.float64).repeat(count, 1),
        expression=params.expression.double(),
        eyes=torch.full((count, 4), 0.2, dtype=torch.float64),
    )
    settings = FitSettings()
    problem = LandmarkProblem(
        model=LandmarkModel.from_head(head, torch.float64),
        target=observe(head, params)[..., :2].double() * torch.tensor([1.0, -1.0]),
        unit=torch.full((count,), 50.0, dtype=torch.float64),
        weights=landmark_weights(settings).double(),
        expression_prior=params.expression.double(),
        settings=settings,
        jaw_open=0,
        mouth_close=1,
        smiles=(),
    )
    return problem, state, params.shape[0].double()


def test_initial_alignment_of_a_rigid_head_is_exact(head: HeadModel) -> None:
    params = dataclasses.replace(
        random_params(head, 4),
        shape=torch.zeros(4, 8),
        expression=torch.zeros(4, 6),
        eye_pose=torch.zeros(4, 6),
    )
    observed = observe(head, params)
    problem, *_ = _problem(head, 4)
    problem = dataclasses.replace(
        problem,
        model=LandmarkModel.from_head(head),
        weights=problem.weights.float(),
        expression_prior=params.expression,
    )
    state = initial_state(problem, observed)
    expected = axis_angle_to_matrix(params.global_pose) @ axis_angle_to_matrix(params.neck_pose)
    torch.testing.assert_close(state.rotation, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(state.log_scale.exp(), params.camera[:, 0] * SIZE / 2, atol=0, rtol=1e-4)


def test_frames_do_not_influence_each_other(head: HeadModel) -> None:
    """With the identity from the same keyframes, a frame's solution does not depend on other frames."""
    observed = observe(head, random_params(head, 6))
    scores = torch.zeros(6, len(EXPRESSIONS))
    settings = dataclasses.replace(
        FitSettings(), smooth_pose=False, bust_share=(0.0, 0.0, 0.0), max_keyframes=2
    )
    # Keyframes are the first and the last frame; a frame in between is replaced.
    first = fit_clip(head, observed, (SIZE, SIZE), scores, settings=settings)
    changed = observed.clone()
    changed[3] = observed[2]
    second = fit_clip(head, changed, (SIZE, SIZE), scores, settings=settings)
    torch.testing.assert_close(first.params[:3].expression, second.params[:3].expression)
    torch.testing.assert_close(second.params.expression[3], second.params.expression[2])


def test_frames_without_face_are_skipped(head: HeadModel) -> None:
    observed = observe(head, random_params(head, 6))
    scores = torch.zeros(6, len(EXPRESSIONS))
    found = torch.tensor([True, True, False, True, True, True])
    with_hole = observed.clone()
    with_hole[2] = torch.nan
    settings = dataclasses.replace(FitSettings(), bust_share=(0.0, 0.0, 0.0))
    fit = fit_clip(head, with_hole, (SIZE, SIZE), scores, found, settings)
    others = fit_clip(head, observed[found], (SIZE, SIZE), scores[found], settings=settings)
    assert fit.valid.tolist() == found.tolist()
    assert fit.residual[2].isnan()
    assert fit.params.camera.isfinite().all()
    torch.testing.assert_close(fit.params.shape[0], others.params.shape[0])


def test_one_frame(head: HeadModel) -> None:
    observed = observe(head, random_params(head, 1))
    fit = fit_clip(head, observed, (SIZE, SIZE), torch.zeros(1, len(EXPRESSIONS)))
    assert len(fit.params) == 1
    assert fit.residual[0] < 0.02


def test_step_in_expression_is_not_smeared(head: HeadModel) -> None:
    truth = random_params(head, 1)[torch.zeros(20, dtype=torch.long)]
    expression = torch.full((20, len(EXPRESSIONS)), 0.2)
    expression[10:, 2] = 0.9
    expression[:, 1] = 0
    truth = dataclasses.replace(truth, expression=expression)
    settings = dataclasses.replace(exact(), smooth_pose=True)
    fit = fit_clip(
        head, observe(head, truth), (SIZE, SIZE), torch.full_like(expression, 0.5), settings=settings
    )
    blink = fit.params.expression[:, 2]
    torch.testing.assert_close(blink, expression[:, 2], atol=0.05, rtol=0)


def test_pose_is_smoothed_without_lag(head: HeadModel) -> None:
    truth = random_params(head, 1)[torch.zeros(40, dtype=torch.long)]
    time = torch.arange(40)
    pose = torch.zeros(40, 3)
    pose[:, 1] = 0.3 * torch.sin(time / 6)
    truth = dataclasses.replace(truth, global_pose=pose, neck_pose=torch.zeros(40, 3))
    observed = observe(head, truth)
    noise = 0.3 * torch.randn(40, 1, 2, generator=torch.Generator().manual_seed(0))
    observed[..., :2] += noise
    scores = truth.expression
    smooth = fit_clip(head, observed, (SIZE, SIZE), scores)
    rough = fit_clip(head, observed, (SIZE, SIZE), scores, settings=FitSettings(smooth_pose=False))

    def jerk(fit):
        path = fit.landmarks_px[:, 4]
        return (path[2:] - 2 * path[1:-1] + path[:-2]).abs().mean()

    assert jerk(smooth) < 0.85 * jerk(rough)
    rotation = axis_angle_to_matrix(smooth.params.global_pose) @ axis_angle_to_matrix(smooth.params.neck_pose)
    yaw = torch.atan2(rotation[:, 0, 2], rotation[:, 2, 2])
    error = [(yaw[5:-5] - pose[5 + lag : 35 + lag, 1]).abs().mean() for lag in (-2, -1, 0, 1, 2)]
    assert int(torch.stack(error).argmin()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (300, 400)}, "square"),
        ({"found": torch.zeros(3, dtype=torch.bool)}, "no face was found"),
        ({"landmarks_px": torch.full((3, 478, 3), torch.nan)}, r"finite .* frames \[0, 1, 2\]"),
    ],
)
def test_errors(head: HeadModel, change: dict, message: str) -> None:
    arguments = {
        "landmarks_px": observe(head, random_params(head, 3)),
        "image_size": (SIZE, SIZE),
        "blendshapes": torch.zeros(3, 6),
    }
    with pytest.raises(ValueError, match=message):
        fit_clip(head, **(arguments | change))


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="one row per frame, got 3, 2 and 3"):
        _check(torch.zeros(3, 478, 3), (SIZE, SIZE), torch.zeros(2, 6), torch.ones(3, dtype=torch.bool))


def test_head_without_landmarks_is_refused(head: HeadModel) -> None:
    other = toy_head()
    other.landmark_names = ()
    with pytest.raises(ValueError, match="needs the landmarks 'mediapipe'"):
        LandmarkModel.from_head(other)


def test_bounded_step_against_enumeration() -> None:
    """The minimum over a two-dimensional box, on a fine grid."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 2, 2, generator=generator, dtype=torch.float64)
    hessian = root @ root.transpose(1, 2) + 0.3 * torch.eye(2, dtype=torch.float64)
    gradient = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    low, high = torch.full((20, 2), -0.3, dtype=torch.float64), torch.full((20, 2), 0.5, dtype=torch.float64)
    step = bounded_step(gradient, hessian, low, high, passes=6)
    axis = torch.linspace(-0.3, 0.5, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cost = grid @ gradient.T + 0.5 * torch.einsum("gi,nij,gj->gn", grid, hessian, grid)
    torch.testing.assert_close(step, grid[cost.argmin(0)], atol=0.006, rtol=0)


def test_match_blendshapes() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3]])
    result = match_blendshapes(scores, ("_neutral", "jawOpen", "smile"), ("smile", "tongueOut", "jawOpen"))
    assert torch.equal(result, torch.tensor([[0.3, 0.0, 0.2]]))
