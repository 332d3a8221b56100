"""Bounded Gauss-Newton for landmarks under weak perspective, vectorised over frames.

Image coordinates have y up here, so that a landmark projects to ``scale (R p)_xy + shift``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.landmark_model import LandmarkModel

NUM_POSE = 6
"""Rotation (3), log scale (1) and shift (2) lead the parameters of a frame; expression and gaze follow."""
NUM_EYES = 4
CHUNK = 64
"""Frames solved at a time; bounds the memory of the Jacobian to about 15 MB."""
WINDOW = 512
"""Frames whose landmarks are computed at a time; bounds them to about 3 MB."""
MAX_GAZE = 0.7
"""Radians; bound of an eye's pitch and yaw."""


def windows(count: int) -> list[slice]:
    """Parts of so many frames, ``WINDOW`` each or fewer, at least one."""
    return [slice(start, min(start + WINDOW, count)) for start in range(0, max(count, 1), WINDOW)]


@dataclass(frozen=True)
class FrameState:
    """Parameters that vary from frame to frame."""

    rotation: Float[Tensor, "n 3 3"]
    """Of the head, from head space to the camera's axes."""
    log_scale: Float[Tensor, " n"]
    """Logarithm of pixels per metre."""
    shift: Float[Tensor, "n 2"]
    """Pixels, y up: the image of head space's origin."""
    expression: Float[Tensor, "n e"]
    """Unknowns of the expression, see ``LandmarkModel``: weights in [0, 1] for the open head."""
    eyes: Float[Tensor, "n 4"]
    """Radians: pitch and yaw of the left eye, then of the right eye; yaw is applied after pitch."""

    def select(self, index: Int[Tensor, " k"] | slice) -> FrameState:
        """Keep some frames."""
        return FrameState(**{name: value[index] for name, value in vars(self).items()})

    @classmethod
    def cat(cls, parts: Sequence[FrameState]) -> FrameState:
        """Frames of several parts, in order."""
        return cls(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})

    def moved(self, step: Float[Tensor, "n p"], unit: Float[Tensor, " n"]) -> FrameState:
        """Apply a step of the solver; rotations compose from the left, shifts are in units of ``unit``."""
        return FrameState(
            rotation=axis_angle_to_matrix(step[:, :3]) @ self.rotation,
            log_scale=self.log_scale + step[:, 3],
            shift=self.shift + step[:, 4:6] * unit[:, None],
            expression=self.expression + step[:, NUM_POSE:-NUM_EYES],
            eyes=self.eyes + step[:, -NUM_EYES:],
        )


@dataclass(frozen=True)
class LandmarkProblem:
    """Observed landmarks and everything else that the cost needs, except the unknowns."""

    model: LandmarkModel
    target: Float[Tensor, "n l 2"]
    """Observed landmarks, pixels, y up."""
    unit: Float[Tensor, " n"]
    """Iris distance in pixels."""
    weights: Float[Tensor, " l"]
    """Weights of the landmarks, with mean 1."""
    expression_prior: Float[Tensor, "n e"]
    """Expression weights expected a priori."""
    settings: FitSettings
    jaw_open: int | None
    """Column of ``jawOpen``, the upper bound of ``mouthClose``."""
    mouth_close: int | None
    smiles: tuple[int, ...]
    """Columns of the corners of a smiling mouth; none for heads without ARKit's names."""

    def select(self, index: Int[Tensor, " k"] | slice) -> LandmarkProblem:
        """Keep some frames."""
        return replace(
            self,
            target=self.target[index],
            unit=self.unit[index],
            expression_prior=self.expression_prior[index],
        )

    def expected(self) -> Float[Tensor, "n l 3"]:
        """Landmarks of the mean head under the expected expression, metres."""
        shape = self.expression_prior.new_zeros(self.model.shape_basis.shape[-1])
        return self.model.points(shape, self.expression_prior)

    def face_centre(self, shape: Float[Tensor, " s"], state: FrameState) -> Float[Tensor, "n 3"]:
        """Mean of the landmarks in head space before the eyes turn."""
        parts = windows(len(state.expression))
        return torch.cat([self.model.points(shape, state.expression[part]).mean(1) for part in parts])

    def predict(self, shape: Float[Tensor, " s"], state: FrameState) -> Float[Tensor, "n l 2"]:
        """Projected landmarks, pixels, y up."""
        return torch.cat([self._project(shape, state.select(part)) for part in windows(len(state.eyes))])

    def _project(self, shape: Float[Tensor, " s"], state: FrameState) -> Float[Tensor, "n l 2"]:
        points = self.model.points(shape, state.expression)
        for eye, rows in enumerate(self.model.eye_of_landmark()):
            points[:, rows] = _turned(self.model, shape, state, points[:, rows], eye)[0]
        projected = points @ state.rotation[:, :2].transpose(1, 2)
        return projected * state.log_scale.exp()[:, None, None] + state.shift[:, None]

    def linearize(
        self, shape: Float[Tensor, " s"], state: FrameState
    ) -> tuple[Float[Tensor, "n 2 l"], Float[Tensor, "n 2 l p"]]:
        """Reprojection errors in iris distances and their derivatives.

        Returns:
            The errors, and their Jacobian by the parameters of the frame in the order of
            ``FrameState.moved``.
        """
        model = self.model
        count, num_expression = state.expression.shape
        gain = (state.log_scale.exp() / self.unit)[:, None, None]
        axes = state.rotation[:, :2] * gain
        points = model.points(shape, state.expression)
        jacobian = points.new_zeros(count, 2, len(self.weights), NUM_POSE + num_expression + NUM_EYES)
        jacobian[..., NUM_POSE:-NUM_EYES] = model.by_expression(axes, shape, state.expression)
        for eye, rows in enumerate(model.eye_of_landmark()):
            points[:, rows], by_angles = _turned(model, shape, state, points[:, rows], eye)
            columns = NUM_POSE + num_expression + 2 * eye
            jacobian[:, :, rows, columns : columns + 2] = torch.einsum("nij,nlja->nila", axes, by_angles)
        rotated = (points @ state.rotation.transpose(1, 2)) * gain
        x, y, z = rotated.unbind(-1)
        jacobian[:, 0, :, 1], jacobian[:, 0, :, 2] = z, -y
        jacobian[:, 1, :, 0], jacobian[:, 1, :, 2] = -z, x
        jacobian[:, 0, :, 3], jacobian[:, 1, :, 3] = x, y
        jacobian[:, 0, :, 4] = 1
        jacobian[:, 1, :, 5] = 1
        offset = (self.target - state.shift[:, None]) / self.unit[:, None, None]
        return (rotated[..., :2] - offset).transpose(1, 2), jacobian

    def shape_jacobian(self, state: FrameState) -> Float[Tensor, "n 2 l s"]:
        """Derivatives of the errors by the identity, as if the eyes looked straight ahead."""
        axes = state.rotation[:, :2] * (state.log_scale.exp() / self.unit)[:, None, None]
        return self.model.by_shape(axes, state.expression)

    def robust_weights(self, error: Float[Tensor, "n 2 l"]) -> Float[Tensor, "n 1 l"]:
        """Weights that turn the soft-L1 cost into least squares, divided by the number of landmarks.

        Source: Triggs et al., Bundle adjustment - a modern synthesis, 2000, sec. 4.3 (first-order weights).
        """
        ratio = error.square().sum(1, keepdim=True) / self.settings.soft_threshold**2
        return self.weights / (1 + ratio).sqrt() / len(self.weights)

    def prior(self, state: FrameState) -> tuple[Float[Tensor, "n p"], Float[Tensor, "p p"]]:
        """Gradient and Hessian of the priors of expression and gaze."""
        num_expression = state.expression.shape[1]
        hessian = torch.zeros(NUM_POSE + num_expression + NUM_EYES, NUM_POSE + num_expression + NUM_EYES)
        hessian.diagonal()[NUM_POSE:-NUM_EYES] = self.settings.expression_prior * self.model.prior_costs()
        same = torch.eye(NUM_EYES) - torch.eye(NUM_EYES).roll(2, dims=1)
        gaze = self.settings.eye_prior * same + self.settings.gaze_prior * torch.eye(NUM_EYES)
        hessian[-NUM_EYES:, -NUM_EYES:] = gaze
        pose = torch.zeros(len(state.eyes), NUM_POSE)
        value = torch.cat([pose, state.expression - self.expression_prior, state.eyes], dim=-1)
        return value @ hessian, hessian

    def normal_equations(
        self, shape: Float[Tensor, " s"], state: FrameState
    ) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p p"], Tensor, Tensor]:
        """Gradient and Hessian by the frame's parameters, then weighted errors and Jacobian for reuse."""
        error, jacobian = self.linearize(shape, state)
        root = self.robust_weights(error).sqrt()
        error = (error * root).flatten(1)
        jacobian = jacobian.mul_(root[..., None]).flatten(1, 2)
        prior_gradient, prior_hessian = self.prior(state)
        transposed = jacobian.transpose(1, 2)
        gradient = (transposed @ error[..., None]).squeeze(-1) + prior_gradient
        return gradient, transposed @ jacobian + prior_hessian, error, jacobian

    def bounds(self, state: FrameState) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]:
        """Smallest and largest step of each parameter; ``mouthClose`` alone would tear the lips apart."""
        lower, upper = (bound.expand_as(state.expression).clone() for bound in self.model.bounds())
        if self.mouth_close is not None and self.jaw_open is not None:
            upper[:, self.mouth_close] = state.expression[:, self.jaw_open]
        free = torch.full((len(state.eyes), NUM_POSE), torch.inf)
        low = torch.cat([-free, lower - state.expression, -MAX_GAZE - state.eyes], dim=-1)
        high = torch.cat([free, upper - state.expression, MAX_GAZE - state.eyes], dim=-1)
        return low, high

    def feasible(self, state: FrameState) -> FrameState:
        """Clamp to the bounds."""
        expression = state.expression.clamp(*self.model.bounds())
        if self.mouth_close is not None and self.jaw_open is not None:
            limited = torch.minimum(expression[:, self.mouth_close], expression[:, self.jaw_open])
            expression[:, self.mouth_close] = limited
        return replace(state, expression=expression, eyes=state.eyes.clamp(-MAX_GAZE, MAX_GAZE))


def _turned(
    model: LandmarkModel, shape: Tensor, state: FrameState, points: Float[Tensor, "n k 3"], eye: int
) -> tuple[Float[Tensor, "n k 3"], Float[Tensor, "n k 3 2"]]:
    """Points of one eye turned about its joint, and their derivatives by pitch and yaw."""
    joint = model.eye_joints[eye] + model.eye_joint_basis[eye] @ shape
    pitch, yaw = state.eyes[:, 2 * eye, None], state.eyes[:, 2 * eye + 1, None]
    x, y, z = (points - joint).unbind(-1)
    nod_y, nod_z = pitch.cos() * y - pitch.sin() * z, pitch.sin() * y + pitch.cos() * z
    turned = torch.stack(
        [yaw.cos() * x + yaw.sin() * nod_z, nod_y, yaw.cos() * nod_z - yaw.sin() * x], dim=-1
    )
    by_pitch = torch.stack([yaw.sin() * nod_y, -nod_z, yaw.cos() * nod_y], dim=-1)
    by_yaw = torch.stack([turned[..., 2], torch.zeros_like(x), -turned[..., 0]], dim=-1)
    return turned + joint, torch.stack([by_pitch, by_yaw], dim=-1)


def bounded_step(
    gradient: Float[Tensor, "n p"],
    hessian: Float[Tensor, "n p p"],
    low: Float[Tensor, "n p"],
    high: Float[Tensor, "n p"],
    free: Bool[Tensor, " p"] | None = None,
    passes: int = 3,
) -> Float[Tensor, "n p"]:
    """Minimise ``g x + x H x / 2`` within bounds by projected Newton passes.

    Args:
        gradient: of the cost.
        hessian: positive definite.
        low: smallest step, <= 0.
        high: largest step, >= 0.
        free: parameters that may move; all, if None.
        passes: each recomputes the set of parameters at a bound.

    Source: Bertsekas, Projected Newton methods for optimization problems with simple constraints, 1982.
    """
    step = torch.zeros_like(gradient)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    for _ in range(passes):
        slope = gradient + (hessian @ step[..., None]).squeeze(-1)
        held = ((step <= low) & (slope > 0)) | ((step >= high) & (slope < 0))
        if free is not None:
            held = held | ~free
        moving = (~held).to(hessian.dtype)
        system = hessian * moving[:, :, None] * moving[:, None, :]
        system = system + torch.diag_embed(torch.where(held, diagonal, 1e-6 * diagonal) + 1e-12)
        delta = torch.cholesky_solve((-slope * moving)[..., None], torch.linalg.cholesky(system)).squeeze(-1)
        step = torch.minimum(torch.maximum(step + delta, low), high)
    return step


def solve_frames(
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    steps: int,
    fixed_pose: bool = False,
) -> FrameState:
    """Solve every frame independently with the identity fixed.

    Args:
        problem: observations of the same frames as ``state``.
        shape: identity.
        state: start.
        steps: Gauss-Newton steps.
        fixed_pose: move expression and gaze only.
    """
    free = torch.ones(NUM_POSE + state.expression.shape[1] + NUM_EYES, dtype=torch.bool)
    free[:NUM_POSE] = not fixed_pose
    solved = []
    for start in range(0, len(state.expression), CHUNK):
        part, current = problem.select(slice(start, start + CHUNK)), state.select(slice(start, start + CHUNK))
        for _ in range(steps):
            gradient, hessian, *_ = part.normal_equations(shape, current)
            low, high = part.bounds(current)
            step = bounded_step(gradient.double(), hessian.double(), low.double(), high.double(), free)
            current = part.feasible(current.moved(step.to(gradient.dtype), part.unit))
        solved.append(current)
    return FrameState.cat(solved)


@runtime_checkable
class ShapeTerm(Protocol):
    """A further cost of the identity."""

    def normal_equations(
        self, shape: Float[Tensor, " s"], state: FrameState, unit: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " s"], Float[Tensor, "s s"]]:
        """Gradient and Hessian by the identity, summed over frames."""
        ...


def solve_shape(
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    term: ShapeTerm | None = None,
    steps: int | None = None,
    fixed_expression: bool = False,
) -> tuple[Float[Tensor, " s"], FrameState]:
    """Solve one identity together with all given frames.

    The frames' parameters are eliminated from each linear system (Schur complement), so its size is
    that of the identity.

    Args:
        problem: observations of the frames.
        shape: start.
        state: start; of the same frames.
        term: a further cost.
        steps: Gauss-Newton steps; by default those of the settings.
        fixed_expression: move poses and gaze only.

    Source: Triggs et al., Bundle adjustment - a modern synthesis, 2000, sec. 6.1.
    """
    num_frames = len(state.expression)
    ridge = num_frames * problem.settings.shape_prior
    for _ in range(problem.settings.shape_steps if steps is None else steps):
        error, jacobian = problem.linearize(shape, state)
        root = problem.robust_weights(error).sqrt()
        by_frame = (jacobian * root[..., None]).flatten(1, 2).double()
        by_shape = (problem.shape_jacobian(state) * root[..., None]).flatten(1, 2).double()
        error = (error * root).flatten(1).double()
        prior_gradient, prior_hessian = problem.prior(state)
        gradient = (by_frame.transpose(1, 2) @ error[..., None]).squeeze(-1) + prior_gradient.double()
        hessian = by_frame.transpose(1, 2) @ by_frame + prior_hessian.double()
        low, high = (bound.double() for bound in problem.bounds(state))
        if fixed_expression:
            low[:, NUM_POSE:-NUM_EYES] = high[:, NUM_POSE:-NUM_EYES] = 0
        mixed = by_frame.transpose(1, 2) @ by_shape
        own_slope = by_shape.flatten(0, 1).T @ error.flatten() + ridge * shape.double()
        own_hessian = by_shape.flatten(0, 1).T @ by_shape.flatten(0, 1)
        own_hessian.diagonal().add_(ridge)
        if term is not None:
            term_slope, term_hessian = term.normal_equations(shape, state, problem.unit)
            own_slope, own_hessian = own_slope + term_slope, own_hessian + term_hessian
        step_shape = _shape_step(gradient, hessian, mixed, own_slope, own_hessian, low, high)
        gradient = gradient + mixed @ step_shape
        step = bounded_step(gradient, hessian, low, high)
        shape = shape + step_shape.to(shape.dtype)
        state = problem.feasible(state.moved(step.to(shape.dtype), problem.unit))
    return shape, state


def _shape_step(
    gradient: Float[Tensor, "n p"],
    hessian: Float[Tensor, "n p p"],
    mixed: Float[Tensor, "n p s"],
    own_slope: Float[Tensor, " s"],
    own_hessian: Float[Tensor, "s s"],
    low: Float[Tensor, "n p"],
    high: Float[Tensor, "n p"],
) -> Float[Tensor, " s"]:
    """Newton step of the identity with the frames' free parameters eliminated."""
    held = ((low >= 0) & (gradient > 0)) | ((high <= 0) & (gradient < 0))
    moving = (~held).double()
    system = hessian * moving[:, :, None] * moving[:, None, :]
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    system = system + torch.diag_embed(torch.where(held, diagonal, 1e-6 * diagonal) + 1e-12)
    right = torch.cat([mixed, gradient[..., None]], dim=-1) * moving[..., None]
    solved = torch.cholesky_solve(right, torch.linalg.cholesky(system))
    eliminated = mixed.flatten(0, 1).T @ solved.flatten(0, 1)
    return -torch.linalg.solve(own_hessian - eliminated[:, :-1], own_slope - eliminated[:, -1])
