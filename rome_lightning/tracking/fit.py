"""Fit of the head model to the landmarks of a clip.

One identity per clip is found together with the poses of a few keyframes; then pose, expression and
gaze of every frame follow with the identity fixed. Both steps are Gauss-Newton on the reprojection
error of MediaPipe's 478 landmarks, with an analytic Jacobian, vectorised over frames. Where somebody
smiles, both are done twice, so that the smile does not become part of the identity.

The camera is the project's weak perspective, so there is no field of view to choose. A face close to
the lens is seen in strong perspective, which this camera can only explain by a narrower head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle, similarity
from rome_lightning.head import HeadModel
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.flow import ClipPictures, Progress, refine_poses
from rome_lightning.tracking.gauss_newton import (
    FrameState,
    LandmarkProblem,
    solve_frames,
    solve_shape,
    windows,
)
from rome_lightning.tracking.jaw import landmark_model
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.tracking.shoulders import steady_bust, steady_neck
from rome_lightning.tracking.silhouette import SilhouetteTerm
from rome_lightning.tracking.to_params import to_params
from rome_lightning.tracking.torso import observe_torso
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import (
    FACE_OVAL,
    INNER_LIPS,
    LEFT_IRIS,
    LEFT_LIDS,
    NUM_LANDMARKS,
    NUM_SKIN,
    OUTER_LIPS,
    RIGHT_IRIS,
    RIGHT_LIDS,
)

RESIDUAL_REGIONS: dict[str, tuple[int, ...]] = {
    "lips": OUTER_LIPS + INNER_LIPS,
    "lids": RIGHT_LIDS + LEFT_LIDS,
    "oval": FACE_OVAL,
    "irises": RIGHT_IRIS + LEFT_IRIS,
}
"""Groups of landmarks whose residual is reported on its own."""
STILL, SMILING = 0.1, 0.5
"""Scores of a smile up to which a mouth counts as still, and from which as smiling."""
SECOND_STEPS = (3, 2)
"""Gauss-Newton steps of the identity and of the frames in a second pass, which starts near its solution."""


@dataclass(frozen=True)
class ClipFit:
    """Parameters of every frame of a clip, with their landmark errors."""

    params: HeadParams
    """One row per frame, identity repeated; frames without a face hold their nearest valid neighbour."""
    valid: Bool[Tensor, " n"]
    """Frames that were fitted."""
    residual: Float[Tensor, " n"]
    """Mean distance of the 468 skin landmarks divided by the 3D iris distance, in the fit to the landmarks
    alone, before the pose is refined and smoothed: says whether this is a face. NaN where not valid."""
    region_residual: dict[str, Float[Tensor, " n"]]
    """The same for each group of ``RESIDUAL_REGIONS``."""
    landmarks_px: Float[Tensor, "n 478 2"]
    """The model's landmarks in pixels; NaN where not valid."""


def match_blendshapes(
    scores: Float[Tensor, "n k"], names: Sequence[str], expression_names: Sequence[str]
) -> Float[Tensor, "n e"]:
    """Reorder a detector's blendshape scores to a head model's expressions.

    Args:
        scores: [0, 1], one column per name.
        names: of the columns; names that the head does not have are dropped.
        expression_names: of the head; those that the detector does not score become 0.
    """
    column = {name: index for index, name in enumerate(names)}
    result = scores.new_zeros(scores.shape[0], len(expression_names))
    for index, name in enumerate(expression_names):
        if name in column:
            result[:, index] = scores[:, column[name]]
    return result


@torch.no_grad()
def fit_clip(
    head: HeadModel,
    landmarks_px: Float[Tensor, "n 478 3"],
    image_size: tuple[int, int],
    blendshapes: Float[Tensor, "n e"],
    found: Bool[Tensor, " n"] | None = None,
    settings: FitSettings | None = None,
    foreground: Float[Tensor, "n h w"] | None = None,
    model: LandmarkModel | None = None,
    pictures: ClipPictures | None = None,
    progress: Progress | None = None,
) -> ClipFit:
    """Fit identity, pose, expression, gaze and camera to the landmarks of one person's clip.

    Args:
        head: with a ``mediapipe`` embedding: the open head, or FLAME.
        landmarks_px: MediaPipe's landmarks in pixels of a square image, the centre of the top-left pixel at
            (0, 0); z in pixels, smaller is nearer. One frame (a photo) is enough.
        image_size: (height, width), equal: the camera has one scale.
        blendshapes: the detector's scores in [0, 1], ordered as ``head.expression_names`` (see
            ``match_blendshapes``); the prior of the expression. 0 for heads without ARKit's names.
        found: frames with a face; all, if None. Other frames are skipped and their input is not read.
        settings: weights; the defaults, if None.
        foreground: mask of the person, [0, 1], over the same square at any resolution, and 1 where it is
            unknown, as outside the frame; keeps skull and ears, which have no landmarks, inside. Read only at
            the keyframes.
        model: ``landmark_model(head)``, if the caller has it.
        pictures: of all frames, to refine the poses of several frames by how the head looks, and to track
            their torso.
        progress: called as ``progress("poses", done, total)``, then with "torso".

    Raises:
        ValueError: the image is not square, no frame has a face, or the input of a frame with a face is
            not finite.

    Departure from ROME: its parameters come from DECA's regressor, one frame at a time.
    """
    settings = settings or FitSettings()
    found = torch.ones(len(landmarks_px), dtype=torch.bool) if found is None else found
    _check(landmarks_px, image_size, blendshapes, found)
    model = landmark_model(head) if model is None else model
    problem = landmark_problem(head, model, landmarks_px[found], blendshapes[found], settings)
    seen = landmarks_px[found].float()
    parts = windows(len(seen))
    state = FrameState.cat([initial_state(problem.select(part), seen[part]) for part in parts])
    shape = torch.zeros(model.shape_basis.shape[-1])
    keyframes = choose_keyframes(state.rotation, settings.max_keyframes)
    silhouette = None
    if foreground is not None:
        masks = foreground[found.nonzero().flatten()[keyframes]]
        silhouette = SilhouetteTerm.build(head, masks, image_size[1], settings.silhouette_weight)
    shape_steps, frame_steps = settings.shape_steps, settings.frame_steps
    smiles = smile(problem) > 0
    if smiles:
        # Otherwise part of the smile would go into the identity, where it stays.
        cautious = _cautious(problem)
        shape, _ = solve_shape(cautious.select(keyframes), shape, state.select(keyframes), silhouette)
        state = solve_frames(cautious, shape, state, frame_steps)
        problem = replace(problem, expression_prior=state.expression)
        shape_steps, frame_steps = SECOND_STEPS
    start = state.select(keyframes)
    shape, _ = solve_shape(problem.select(keyframes), shape, start, silhouette, shape_steps, smiles)
    state = solve_frames(problem, shape, state, frame_steps)
    runs = consecutive_runs(found)
    fitted = state
    numbers = found.nonzero().flatten().tolist()
    if pictures is not None and settings.refine_pose and len(seen) > 1:
        state = refine_poses(head, problem, shape, state, pictures, numbers, image_size[1], progress)
        state = solve_frames(problem, shape, state, steps=3, fixed_pose=True)
    if settings.smooth_pose:
        state = steady_neck(head, problem, shape, smooth_pose(problem, shape, state, runs), runs)
        state = solve_frames(problem, shape, state, steps=3, fixed_pose=True)
    bust = steady_bust(head, shape, state, runs, settings)
    shift = None
    if pictures is not None and settings.track_torso and len(seen) > 1:
        side = image_size[1]
        torso = observe_torso(head, problem, shape, state, bust, pictures, numbers, runs, side, progress)
        bust, shift = torso.rotation @ bust, torso.shift
    return _assemble(head, problem, shape, state, fitted, bust, shift, found, image_size)


def landmark_problem(
    head: HeadModel,
    model: LandmarkModel,
    landmarks_px: Float[Tensor, "n 478 3"],
    blendshapes: Float[Tensor, "n e"],
    settings: FitSettings,
) -> LandmarkProblem:
    """The fit's problem for frames with a face.

    Args:
        head: to fit.
        model: its landmarks.
        landmarks_px: as for ``fit_clip``.
        blendshapes: as for ``fit_clip``.
        settings: weights.
    """
    names = head.expression_names
    prior = blendshapes.new_zeros(len(blendshapes), model.num_expression)
    prior[:, : blendshapes.shape[1]] = blendshapes
    return LandmarkProblem(
        model=model,
        target=landmarks_px[:, :, :2].float() * torch.tensor([1.0, -1.0]),
        unit=iris_distance(landmarks_px.float()),
        weights=landmark_weights(settings),
        expression_prior=prior.float().clamp(0, 1),
        settings=settings,
        jaw_open=names.index("jawOpen") if "jawOpen" in names else None,
        mouth_close=names.index("mouthClose") if "mouthClose" in names else None,
        smiles=tuple(column for column, name in enumerate(names) if name.startswith("mouthSmile")),
    )


def smile(problem: LandmarkProblem) -> float:
    """How much somebody smiles, in the mean of the frames: from 0 up to ``STILL`` to 1 from ``SMILING``."""
    if not problem.smiles:
        return 0.0
    score = problem.expression_prior[:, list(problem.smiles)].amax(1)
    return float(((score - STILL) / (SMILING - STILL)).clamp(0, 1).mean())


def _cautious(problem: LandmarkProblem) -> LandmarkProblem:
    """The problem with a costlier identity, which leaves a smile to the expression: see ``smile_shape``."""
    cost = problem.settings.shape_prior * problem.settings.smile_shape ** smile(problem)
    return replace(problem, settings=replace(problem.settings, shape_prior=cost))


def iris_distance(landmarks: Float[Tensor, "n 478 3"]) -> Float[Tensor, " n"]:
    """Distance of the iris centres in three dimensions, the unit of all residuals."""
    return (landmarks[:, LEFT_IRIS[0]] - landmarks[:, RIGHT_IRIS[0]]).norm(dim=-1)


def landmark_weights(settings: FitSettings) -> Float[Tensor, " 478"]:
    """Weight of each landmark, with mean 1."""
    weights = torch.ones(NUM_LANDMARKS)
    weights[list(RESIDUAL_REGIONS["lips"])] = settings.lips_weight
    weights[list(RESIDUAL_REGIONS["lids"])] = settings.lids_weight
    weights[list(FACE_OVAL)] = settings.oval_weight
    return weights / weights.mean()


def choose_keyframes(rotation: Float[Tensor, "n 3 3"], count: int) -> Int[Tensor, " k"]:
    """Frames for the identity: half evenly spaced in time, half with the largest rotation from those."""
    num_frames = len(rotation)
    if num_frames <= count:
        return torch.arange(num_frames)
    chosen = torch.linspace(0, num_frames - 1, max(count // 2, 1)).round().long().tolist()
    vectors = matrix_to_axis_angle(rotation)
    distance = torch.cdist(vectors, vectors[chosen]).min(dim=1).values
    while len(chosen) < count:
        farthest = int(distance.argmax())
        chosen.append(farthest)
        distance = torch.minimum(distance, (vectors - vectors[farthest]).norm(dim=-1))
        distance[farthest] = -1
    return torch.tensor(sorted(chosen))


def consecutive_runs(found: Bool[Tensor, " n"]) -> Sequence[Int[Tensor, " r"]]:
    """Rows, among the frames with a face, that follow each other without a gap."""
    times = found.nonzero().flatten()
    breaks = ((times[1:] - times[:-1]) > 1).nonzero().flatten() + 1
    return torch.arange(len(times)).tensor_split(breaks)


def smooth_pose(
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    runs: Sequence[Int[Tensor, " r"]],
) -> FrameState:
    """Smooth rotation and camera with a symmetric quadratic filter, which has no lag.

    Where the filter would move the landmarks by more than the detector's noise, as in fast turns or at
    low frame rates, it is faded out.

    Args:
        problem: of the found frames.
        shape: identity.
        state: of the found frames.
        runs: rows of frames that follow each other; the filter does not reach across frames without a face.

    Source: Savitzky & Golay, Smoothing and differentiation of data, 1964 (5 points, second order).
    """
    reference = state.rotation[len(state.rotation) // 2]
    relative = matrix_to_axis_angle(state.rotation @ reference.T)
    signal = torch.cat([relative, state.log_scale[:, None], state.shift], dim=-1)
    kernel = torch.tensor([-3.0, 12.0, 17.0, 12.0, -3.0], dtype=signal.dtype) / 35
    smoothed = signal.clone()
    for run in runs:
        if len(run) >= 5:
            windows = signal[run].unfold(0, 5, 1)
            smoothed[run[2:-2]] = windows @ kernel

    def with_pose(values: Float[Tensor, "n 6"]) -> FrameState:
        rotation = axis_angle_to_matrix(values[:, :3]) @ reference
        return FrameState(rotation, values[:, 3], values[:, 4:6], state.expression, state.eyes)

    moved = problem.predict(shape, with_pose(smoothed)) - problem.predict(shape, state)
    ratio = moved.norm(dim=-1).mean(1) / problem.unit / problem.settings.smooth_limit
    share = 1 / (1 + ratio.square())
    return with_pose(torch.lerp(signal, smoothed, share[:, None]))


def _check(landmarks_px: Tensor, image_size: tuple[int, int], blendshapes: Tensor, found: Tensor) -> None:
    if image_size[0] != image_size[1]:
        raise ValueError(
            f"fitting needs landmarks in a square image, got height {image_size[0]} and width "
            f"{image_size[1]}; crop or pad the frames to a square first"
        )
    if not (len(landmarks_px) == len(blendshapes) == len(found)):
        raise ValueError(
            "landmarks, blendshapes and found must have one row per frame, got "
            f"{len(landmarks_px)}, {len(blendshapes)} and {len(found)}"
        )
    if not bool(found.any()):
        raise ValueError(f"no face was found in any of the {len(found)} frames; nothing to fit")
    finite = landmarks_px.flatten(1).isfinite().all(1) & blendshapes.isfinite().all(1)
    if not bool(finite[found].all()):
        bad = (found & ~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"landmarks and blendshapes must be finite where a face was found, but are not in frames {bad}"
        )
    if not bool((iris_distance(landmarks_px[found]) > 0).all()):
        raise ValueError("landmarks of a frame with a face have coinciding irises; set found to False")


def initial_state(problem: LandmarkProblem, landmarks_px: Float[Tensor, "n 478 3"]) -> FrameState:
    """Alignment of the mean head with the detector's expression to the 3D landmarks."""
    points = problem.expected()
    observed = landmarks_px * torch.tensor([1.0, -1.0, -1.0])
    scale, rotation, shift = similarity(points, observed, problem.weights)
    return FrameState(
        rotation=rotation,
        log_scale=scale.log(),
        shift=shift[:, :2],
        expression=problem.expression_prior.clone(),
        eyes=torch.zeros(len(points), 4),
    )


def _assemble(
    head: HeadModel,
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    fitted: FrameState,
    bust: Float[Tensor, "n 3 3"],
    torso_shift: Float[Tensor, "n 3"] | None,
    found: Bool[Tensor, " n"],
    image_size: tuple[int, int],
) -> ClipFit:
    """Convert to the project's parameters and spread the fitted frames over the clip."""
    predicted = problem.predict(shape, state)
    distance = (problem.predict(shape, fitted) - problem.target).norm(dim=-1) / problem.unit[:, None]
    params = to_params(head, problem.model, shape, state, bust, image_size, torso_shift)
    nearest = nearest_found(found)

    def spread(values: Tensor) -> Tensor:
        result = values[nearest].clone()
        result[~found] = torch.nan
        return result

    regions = {name: spread(distance[:, list(rows)].mean(1)) for name, rows in RESIDUAL_REGIONS.items()}
    return ClipFit(
        params=params[nearest],
        valid=found.clone(),
        residual=spread(distance[:, :NUM_SKIN].mean(1)),
        region_residual=regions,
        landmarks_px=spread(predicted * torch.tensor([1.0, -1.0])),
    )


def nearest_found(found: Bool[Tensor, " n"]) -> Int[Tensor, " n"]:
    """For each frame the row, among those with a face, of the nearest one, the earlier of two."""
    times, fitted = torch.arange(len(found)), found.nonzero().flatten()
    after = torch.searchsorted(fitted, times).clamp_max(len(fitted) - 1)
    before = (after - 1).clamp_min(0)
    is_earlier = (times - fitted[before]).abs() <= (fitted[after] - times).abs()
    return torch.where(is_earlier, before, after)
