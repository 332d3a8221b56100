"""Poses of a clip refined by optical flow, from how the head looks.

Landmarks of one face wander by a hundredth of its size with expression and rotation. No landmark error shows
that, but a head grows and sways while it grimaces, and no picture of an avatar in that pose fits the frame.
So the mesh carries one frame, the reference, into the pose of each other frame, and the optical flow between
the two tells how the pose must change.

Source: analysis by synthesis, as in Thies et al., Face2Face, CVPR 2016, with flow (Kroeger et al., Fast
optical flow using dense inverse search, ECCV 2016) in place of colour differences: it reaches farther and
ignores light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.depth import foreshortening
from rome_lightning.head.perspective import Perspective
from rome_lightning.media.frame_reader import FrameSequence
from rome_lightning.renderer import get_rasterizer, interpolate, nearest_covered
from rome_lightning.renderer.nearest_fill import values_of
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.gauss_newton import NUM_EYES, NUM_POSE, FrameState, LandmarkProblem
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

Grey = UInt8[np.ndarray, "s s"]
Progress = Callable[[str, int, int], None]

FLOW_SIZE = 256
"""Side of the pictures that are compared, pixels."""
STEPS = 2
"""Rounds of carrying, flow and solving."""
CAMERA_DISTANCE = 0.6
"""Metres from the camera to the eyes, for what lies behind them: arm's length, as for avatars."""
_REGIONS = ("face", "scalp", "ears")
_STRIDE = 4
"""Of the pixels whose flow is used: neighbours tell the same."""
_EVERY_ROW = (slice(_STRIDE // 2, None, _STRIDE), slice(_STRIDE // 2, None, _STRIDE))
EVERY = (..., *_EVERY_ROW)
"""Index of the pixels that are used."""
_ROWS, _COLUMNS = np.mgrid[:FLOW_SIZE, :FLOW_SIZE].astype(np.float32)
_CHUNK = 16
"""Frames whose surfaces are in memory at a time, about 3 MB each."""
_LEAST_FACING, _FACING = 0.15, 0.35
"""Cosine to the camera from which a point counts, and over which it gains full weight."""
_ROBUST_PX = 1.5
"""Flow from which the cost grows slower."""
_ROBUST_GREY = 15.0
"""Difference of grey levels, after the flow, that halves a weight: something else is there."""
_FLAT = 4.0
"""Squared slope, in grey levels per pixel, below which flow means little."""
_SOLVER_STEPS = 4
_PRIOR_SHARES = (1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
"""Of the prior, for rotation, scale and shift: the flow says best where a head is."""
_MOST_MOVED = 0.15
"""Mean movement of the landmarks, in iris distances, beyond which the pose of the landmarks is kept."""
_LEAST_AGREEING = 0.3
"""Share of the head that looks as in the reference after the flow, below which a frame keeps its pose."""


@dataclass(frozen=True)
class ClipPictures:
    """The square of a clip in grey, ``FLOW_SIZE`` wide, made when it is asked for."""

    frames: FrameSequence
    """RGB, of the whole clip."""
    crop: Crop

    @property
    def inside(self) -> Bool[np.ndarray, "s s"]:
        """Pixels that the video shows."""
        return self.crop.inside(FLOW_SIZE).numpy()

    def __getitem__(self, number: int) -> Grey:
        return self._grey(self.frames[number])

    def __iter__(self) -> Iterator[Grey]:
        return map(self._grey, self.frames)

    def _grey(self, frame: UInt8[np.ndarray, "h w 3"]) -> Grey:
        grey: Grey = cv2.cvtColor(self.crop.extract(frame, FLOW_SIZE), cv2.COLOR_RGB2GRAY)
        return grey


@dataclass(frozen=True)
class _Surface:
    """The head in some frames, as seen in the pictures that are compared."""

    points: Float[Tensor, "n v 3"]
    """Camera's axes about the head's origin, metres, y up."""
    pixels: Float[Tensor, "n v 3"]
    facing: Float[Tensor, "n v 1"]
    """Cosine between normal and camera."""


@dataclass(frozen=True)
class _Evidence:
    """Flow at some pixels of each frame."""

    flow: Float[Tensor, "n p 2"]
    """Pixels, y up."""
    information: Float[Tensor, "n p 2 2"]
    """How well the flow is known in each direction, times the pixel's weight."""
    weight: Float[Tensor, "n p"]
    agreeing: Float[Tensor, " n"]
    """Share of the comparable head that looks the same after the flow."""
    jacobian: Float[Tensor, "n p 2 6"]
    """Of the pixel's position by rotation and scale about ``centre`` and by the shift, as in
    ``FrameState.moved``."""
    centre: Float[Tensor, "n 3"]
    """Of the face, camera's axes, metres."""

    @property
    def length(self) -> Float[Tensor, " n"]:
        """Mean length of the flow, pixels."""
        return (self.flow.norm(dim=-1) * self.weight).sum(1) / self.weight.sum(1).clamp_min(1e-6)


class FlowRefinement:
    """Refines poses of frames against one reference frame.

    Args:
        head: with regions ``face``, ``scalp`` and ``ears``.
        model: landmarks of the head, which define the unknowns of a frame.
        shape: identity.
        reference: state of the reference frame (one row).
        picture: of the reference frame.
        inside: pixels that the video shows.
        side: of the square in pixels of the states.
        prior: see ``FitSettings.flow_prior``.
    """

    def __init__(
        self,
        head: HeadModel,
        model: LandmarkModel,
        shape: Float[Tensor, " s"],
        reference: FrameState,
        picture: Grey,
        inside: Bool[np.ndarray, "s s"],
        side: int,
        prior: float,
    ) -> None:
        self.head, self.model, self.shape, self.prior = head, model, shape, prior
        self.factor = FLOW_SIZE / side
        self.perspective = Perspective(head, CAMERA_DISTANCE)
        self.rasterizer = get_rasterizer()
        self.region = head.region(*_REGIONS).float()[None, :, None]
        self.face = head.region("face")
        own = self._params(reference)
        self.offsets = self.perspective.lifted(foreshortening(head, head(at_rest(own))), own)
        self.own = self._surface(reference)
        self.picture, self.inside = picture, inside

    def refined(self, state: FrameState, pictures: list[Grey], unit: Float[Tensor, " n"]) -> FrameState:
        """Poses with which the carried reference fits the pictures.

        A frame keeps its pose if too little can be compared, or if a round does not shorten the flow.

        Args:
            state: of some frames.
            pictures: of these frames.
            unit: iris distance in pixels of the states.
        """
        first, current = None, state
        kept = torch.zeros(len(pictures), dtype=torch.bool)
        for _ in range(STEPS):
            evidence = self._evidence(current, pictures, unit)
            kept |= evidence.agreeing < _LEAST_AGREEING
            if first is None:
                first = evidence.length
            else:
                kept |= evidence.length > first
            step = _solved(evidence, self.prior * torch.tensor(_PRIOR_SHARES))
            current = _moved(current, step, evidence.centre, unit)
        return _chosen(kept, state, current)

    def _params(self, state: FrameState) -> HeadParams:
        """The heads without neck and bust, rotated as a whole; eyes and camera are not used."""
        count = len(state.expression)
        expression, jaw = self.model.split(state.expression)
        zero = torch.zeros(count, 3)
        turn = matrix_to_axis_angle(state.rotation)
        return HeadParams(
            self.shape.expand(count, -1), expression, turn, zero, jaw, torch.zeros(count, 6), zero
        )

    def _surface(self, state: FrameState) -> _Surface:
        params = self._params(state)
        posed = self.head(params) + self.head.turn(self.offsets.expand(len(params), -1, -1), params)
        points = self.perspective.seen(posed @ state.rotation.transpose(1, 2))
        place = points * state.log_scale.exp()[:, None, None]
        x, y, z = place.unbind(-1)
        x, y = x + state.shift[:, :1], -(y + state.shift[:, 1:])
        pixels = torch.stack([(x + 0.5) * self.factor - 0.5, (y + 0.5) * self.factor - 0.5, -z], dim=-1)
        return _Surface(points, pixels, vertex_normals(points, self.head.faces)[..., 2:])

    def _evidence(self, state: FrameState, pictures: list[Grey], unit: Float[Tensor, " n"]) -> _Evidence:
        seen, count = self._surface(state), len(pictures)
        faces, size = self.head.faces, (FLOW_SIZE, FLOW_SIZE)
        face_ids = self.rasterizer.face_ids(seen.pixels, faces, size)
        attributes = torch.cat(
            [
                self.own.pixels[..., :2] - seen.pixels[..., :2],
                seen.points,
                torch.minimum(seen.facing, self.own.facing),
                self.region.expand(count, -1, -1),
            ],
            dim=-1,
        )
        values = interpolate(seen.pixels, faces, face_ids, attributes)
        shift = values_of(nearest_covered(face_ids >= 0)[0], values[:, :2]).permute(0, 2, 3, 1)
        with ThreadPoolExecutor(max(1, min(2, torch.get_num_threads()))) as pool:
            compared = list(pool.map(self._compared, shift.float().numpy(), pictures))
        flow_x, flow_y, xx, xy, yy, known, same = (
            part.flatten(1) for part in torch.from_numpy(np.stack(compared)).unbind(1)
        )
        centre = seen.points[:, self.face].mean(1)
        points = values[:, 2:5][EVERY].flatten(2) - centre[..., None]
        x, y, z = points.unbind(1)
        facing, region = (part.flatten(1) for part in values[:, 5:][EVERY].unbind(1))
        comparable = known * region * ((facing - _LEAST_FACING) / _FACING).clamp(0, 1)
        weight = same * comparable
        # y points up here, in the pictures down.
        tensor = torch.stack([torch.stack([xx, -xy], -1), torch.stack([-xy, yy], -1)], -2)
        information = tensor * (weight / (xx + yy + _FLAT))[..., None, None]
        gain = (self.factor * state.log_scale.exp())[:, None]
        zero, one = torch.zeros_like(x), (self.factor * unit)[:, None].expand_as(x)
        by_x = torch.stack([zero, gain * z, -gain * y, gain * x, one, zero], -1)
        by_y = torch.stack([-gain * z, zero, gain * x, gain * y, zero, one], -1)
        flow = torch.stack([flow_x, -flow_y], -1)
        agreeing = weight.sum(1) / comparable.sum(1).clamp_min(1.0)
        return _Evidence(flow, information, weight, agreeing, torch.stack([by_x, by_y], -2), centre)

    def _compared(self, shift: Float32[np.ndarray, "s s 2"], picture: Grey) -> Float32[np.ndarray, "7 r r"]:
        return compare_pictures(self.picture, shift, picture, self.inside)


def compare_pictures(
    reference: Grey, shift: Float32[np.ndarray, "s s 2"], picture: Grey, inside: Bool[np.ndarray, "s s"]
) -> Float32[np.ndarray, "7 r r"]:
    """Flow from a carried reference to a picture, and what it is worth.

    Args:
        reference: what is carried.
        shift: from each pixel of the picture to its pixel of the reference.
        picture: in which the flow ends.
        inside: pixels that the video shows.

    Returns:
        Flow (x, y), structure tensor (xx, xy, yy), whether both pictures show it, and how equal it is, of
        the pixels of ``EVERY``.
    """
    at_x, at_y = _COLUMNS + shift[..., 0], _ROWS + shift[..., 1]
    carried = _sampled(reference, at_x, at_y)
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = np.asarray(method.calc(carried, picture, np.zeros(shift.shape, np.float32)))
    flow, at_x, at_y = flow[_EVERY_ROW], at_x[EVERY], at_y[EVERY]
    there = _sampled(picture, _COLUMNS[EVERY] + flow[..., 0], _ROWS[EVERY] + flow[..., 1])
    difference = there.astype(np.float32) - carried[EVERY]
    smooth = cv2.GaussianBlur(carried.astype(np.float32), (0, 0), 1.0)
    slope_x, slope_y = (cv2.Sobel(smooth, cv2.CV_32F, *axis, ksize=3) / 8 for axis in ((1, 0), (0, 1)))
    size = there.shape
    tensor = (
        cv2.resize(product, size, interpolation=cv2.INTER_AREA)
        for product in (slope_x * slope_x, slope_x * slope_y, slope_y * slope_y)
    )
    column, row = (np.rint(at).astype(np.int32).clip(0, FLOW_SIZE - 1) for at in (at_x, at_y))
    known = inside[EVERY] & inside[row, column]
    known &= (abs(at_x - column) < 1) & (abs(at_y - row) < 1)
    same = 1 / (1 + np.square(difference / _ROBUST_GREY))
    return np.stack([flow[..., 0], flow[..., 1], *tensor, known.astype(np.float32), same])


def refine_poses(
    head: HeadModel,
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    pictures: ClipPictures,
    numbers: Sequence[int],
    side: int,
    progress: Progress | None = None,
) -> FrameState:
    """Refine the poses of a clip against its most typical frame; see ``FlowRefinement``.

    Args:
        head: that is fitted.
        problem: of the frames with a face.
        shape: identity.
        state: of the frames with a face.
        pictures: of all frames.
        numbers: of the frames with a face among all, ascending.
        side: of the square in pixels of ``state``.
        progress: called as ``progress("poses", done, total)``.
    """
    row = typical_row(state.expression)
    refinement = FlowRefinement(
        head,
        problem.model,
        shape,
        state.select(slice(row, row + 1)),
        pictures[numbers[row]],
        pictures.inside,
        side,
        problem.settings.flow_prior,
    )
    solved: list[FrameState] = []
    waiting: list[Grey] = []
    done, wanted = 0, set(numbers)
    threads = cv2.getNumThreads()
    # The flow of a picture depends on the number of threads that share it.
    cv2.setNumThreads(1)
    try:
        for number, picture in enumerate(pictures):
            if number not in wanted:
                continue
            waiting.append(picture)
            if len(waiting) == _CHUNK or number == numbers[-1]:
                rows = slice(done, done + len(waiting))
                solved.append(refinement.refined(state.select(rows), waiting, problem.unit[rows]))
                done, waiting = rows.stop, []
                if progress is not None:
                    progress("poses", done, len(numbers))
    finally:
        cv2.setNumThreads(threads)
    refined = FrameState.cat(solved)
    moved = (problem.predict(shape, refined) - problem.predict(shape, state)).norm(dim=-1).mean(1)
    return _chosen(moved > _MOST_MOVED * problem.unit, state, refined)


def _chosen(which: Bool[Tensor, " n"], first: FrameState, second: FrameState) -> FrameState:
    """The first state where ``which``, the second elsewhere."""
    values = {
        name: torch.where(which.view(-1, *(1 for _ in value.shape[1:])), value, getattr(second, name))
        for name, value in vars(first).items()
    }
    return FrameState(**values)


def typical_row(expression: Float[Tensor, "n e"]) -> int:
    """The frame whose expression is nearest to the clip's median, in L1."""
    values = expression.numpy()
    return int(np.abs(values - np.median(values, axis=0)).sum(1).argmin())


def _sampled(picture: Grey, x: Float32[np.ndarray, "s s"], y: Float32[np.ndarray, "s s"]) -> Grey:
    values: Grey = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return values


def _moved(
    state: FrameState, step: Float[Tensor, "n 6"], centre: Float[Tensor, "n 3"], unit: Float[Tensor, " n"]
) -> FrameState:
    """Rotate and scale about a centre (camera's axes, metres), then shift by iris distances."""
    turned = (axis_angle_to_matrix(step[:, :3]) @ centre[..., None]).squeeze(-1)
    held = centre[:, :2] - step[:, 3:4].exp() * turned[:, :2]
    every = torch.zeros(len(step), NUM_POSE + state.expression.shape[1] + NUM_EYES)
    every[:, :4] = step[:, :4]
    every[:, 4:6] = step[:, 4:] + held * (state.log_scale.exp() / unit)[:, None]
    return state.moved(every, unit)


def _solved(evidence: _Evidence, prior: Float[Tensor, " 6"]) -> Float[Tensor, "n 6"]:
    """The step of the pose that explains the flow best."""
    flow, total = evidence.flow, evidence.weight.sum(1).clamp_min(1.0)
    jacobian = evidence.jacobian.flatten(1, 2)
    transposed = jacobian.transpose(1, 2)
    informed = (evidence.information @ evidence.jacobian).flatten(1, 2)
    observed = (evidence.information @ flow[..., None]).flatten(1)
    step = torch.zeros(len(flow), NUM_POSE)
    for _ in range(_SOLVER_STEPS):
        error = flow - (jacobian @ step[..., None]).unflatten(1, (-1, 2)).squeeze(-1)
        share = (1 / (1 + error.square().sum(-1) / _ROBUST_PX**2)).repeat_interleave(2, dim=1)
        hessian = (transposed @ (informed * share[..., None])).double() / total[:, None, None]
        slope = (transposed @ (observed * share)[..., None]).double() / total[:, None, None]
        hessian.diagonal(dim1=1, dim2=2).add_(prior)
        step = torch.linalg.solve(hessian, slope).squeeze(-1).float()
    return step
