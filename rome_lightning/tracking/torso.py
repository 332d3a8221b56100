"""Where the torso is, from how neck and shoulders look.

They have no landmarks, and a neck bends in many joints: a head that leans, nods or slides to a side moves
over shoulders that stay. So the mesh carries one frame, the reference, into each other frame, as for the pose
of the head (``flow``), and the optical flow on what hangs on the root joint tells how the torso moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, project
from rome_lightning.head import HeadModel
from rome_lightning.renderer import get_rasterizer, interpolate, nearest_covered
from rome_lightning.renderer.nearest_fill import values_of
from rome_lightning.tracking.flow import (
    EVERY,
    FLOW_SIZE,
    ClipPictures,
    Grey,
    Progress,
    compare_pictures,
    typical_row,
)
from rome_lightning.tracking.gauss_newton import FrameState, LandmarkProblem
from rome_lightning.tracking.landmark_model import LandmarkModel
from rome_lightning.tracking.shoulders import gaussian_mean, joints_of, rotated
from rome_lightning.tracking.to_params import to_params

_SOLVER_STEPS = 4
_CHUNK = 16
"""Frames whose surfaces are in memory at a time, about 3 MB each."""
_LEAST_WEIGHT, _FULL_WEIGHT = 0.3, 0.7
"""Skinning weights of the root joint from which a point counts, and at which it counts fully."""
_ROBUST_PX = 2.0
"""Error of the flow from which the cost grows slower: hair and hands move on their own."""
_FLAT = 4.0
"""Squared slope, in grey levels per pixel, below which flow means little."""
_CORRELATED = 30.0
"""Samples that tell as much as one: neighbours err alike."""
_PRIOR_SIGMAS = (0.03, 0.03, 0.08, 0.08)
"""Standard deviations a priori: shift to the side and up, metres; yaw and roll, radians."""
_LEAST_AGREEING = 0.3
"""Share of the torso that looks as in the reference after the flow, below which a frame tells nothing."""


@dataclass(frozen=True)
class TorsoMotion:
    """How the torso moves in addition to what is likely a priori, in the camera's axes."""

    rotation: Float[Tensor, "n 3 3"]
    """About the neck joint."""
    shift: Float[Tensor, "n 3"]
    """Metres; in the median of a clip 0, because nothing tells where a neck is straight."""


class TorsoTracker:
    """Finds the motion of the torso against one reference frame.

    Args:
        head: whose skinning weights of the root joint say what the torso moves.
        model: landmarks of the head, which define the unknowns of a frame.
        shape: identity.
        reference: state of the reference frame (one row).
        bust: rotation of the shoulders in that frame.
        picture: of that frame.
        inside: pixels that the video shows.
        side: of the square in pixels of the states.
    """

    def __init__(
        self,
        head: HeadModel,
        model: LandmarkModel,
        shape: Float[Tensor, " s"],
        reference: FrameState,
        bust: Float[Tensor, "1 3 3"],
        picture: Grey,
        inside: Bool[np.ndarray, "s s"],
        side: int,
    ) -> None:
        self.head, self.model, self.shape, self.side = head, model, shape, side
        self.picture, self.inside = picture, inside
        self.rasterizer = get_rasterizer()
        self.root_weight = head.to_vertices(head.skinning_weights[:, :1])
        self.counts = ((self.root_weight - _LEAST_WEIGHT) / (_FULL_WEIGHT - _LEAST_WEIGHT)).clamp(0, 1)
        self.own = self._surface(reference, bust)[0]

    def evidence(
        self, state: FrameState, bust: Float[Tensor, "n 3 3"], pictures: list[Grey]
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 4 4"]]:
        """Normal equations of shift (x, y) and turn (yaw, roll) of the torso in some frames.

        Args:
            state: of the frames.
            bust: rotation of the shoulders that is likely a priori.
            pictures: of the frames.

        Returns:
            Right side and matrix, without the prior; 0 in frames that look different.
        """
        flow, jacobian, information, agreeing = self._compared(state, bust, pictures)
        slope, known = _normal_equations(flow, jacobian, information)
        other = agreeing < _LEAST_AGREEING
        slope[other], known[other] = 0, 0
        return slope, known

    def _surface(
        self, state: FrameState, bust: Float[Tensor, "n 3 3"]
    ) -> tuple[Float[Tensor, "n v 3"], Float[Tensor, "n v 3"], Float[Tensor, " n"]]:
        """Vertices in pixels, and in metres relative to the neck joint, and pixels per metre."""
        params = to_params(self.head, self.model, self.shape, state, bust, (self.side, self.side))
        world = self.head(params, in_world=True)
        root, neck = joints_of(self.head, self.shape, state)
        joint = root + rotated(bust, neck - root)
        pixels = project(world, params.camera, (FLOW_SIZE, FLOW_SIZE))
        return pixels, world - joint[:, None], params.camera[:, 0] * FLOW_SIZE / 2

    def _compared(
        self, state: FrameState, bust: Float[Tensor, "n 3 3"], pictures: list[Grey]
    ) -> tuple[
        Float[Tensor, "n p 2"], Float[Tensor, "n p 2 4"], Float[Tensor, "n p 2 2"], Float[Tensor, " n"]
    ]:
        """Flow (pixels, y up), its Jacobian, its information, and the share of the torso that agrees."""
        pixels, points, gain = self._surface(state, bust)
        faces, count = self.head.faces, len(pictures)
        face_ids = self.rasterizer.face_ids(pixels, faces, (FLOW_SIZE, FLOW_SIZE))
        weights = torch.cat([self.counts, self.root_weight], dim=-1).expand(count, -1, -1)
        attributes = torch.cat([self.own[..., :2] - pixels[..., :2], points, weights], dim=-1)
        values = interpolate(pixels, faces, face_ids, attributes)
        to_reference = values_of(nearest_covered(face_ids >= 0)[0], values[:, :2]).permute(0, 2, 3, 1)
        with ThreadPoolExecutor(max(1, min(2, torch.get_num_threads()))) as pool:
            compared = pool.map(
                lambda shift, picture: compare_pictures(self.picture, shift, picture, self.inside),
                to_reference.float().numpy(),
                pictures,
            )
            stacked = torch.from_numpy(np.stack(list(compared)))
        flow_x, flow_y, xx, xy, yy, known, same = (part.flatten(1) for part in stacked.unbind(1))
        x, y, z, counts, root_weight = (part.flatten(1) for part in values[:, 2:][EVERY].unbind(1))
        comparable = known * counts
        # y points up here, in the pictures down.
        tensor = torch.stack([torch.stack([xx, -xy], -1), torch.stack([-xy, yy], -1)], -2)
        information = tensor * (same * comparable / (xx + yy + _FLAT))[..., None, None]
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        by_x, by_y = torch.stack([one, zero, z, -y], -1), torch.stack([zero, one, zero, x], -1)
        jacobian = torch.stack([by_x, by_y], -2) * (gain[:, None] * root_weight)[..., None, None]
        agreeing = (same * comparable).sum(1) / comparable.sum(1).clamp_min(1.0)
        return torch.stack([flow_x, -flow_y], -1), jacobian, information, agreeing


def observe_torso(
    head: HeadModel,
    problem: LandmarkProblem,
    shape: Float[Tensor, " s"],
    state: FrameState,
    bust: Float[Tensor, "n 3 3"],
    pictures: ClipPictures,
    numbers: Sequence[int],
    runs: Sequence[Int[Tensor, " r"]],
    side: int,
    progress: Progress | None = None,
) -> TorsoMotion:
    """Motion of the torso in a clip against its most typical frame.

    Frames that tell little take over what their neighbours tell: the evidence is averaged over time, not the
    motion.

    Args:
        head: that was fitted.
        problem: of the frames with a face.
        shape: identity.
        state: of the frames with a face.
        bust: rotation of the shoulders that is likely a priori in these frames.
        pictures: of all frames.
        numbers: of the frames with a face among all, ascending.
        runs: rows of frames that follow each other without a gap.
        side: of the square in pixels of ``state``.
        progress: called as ``progress("torso", done, total)``.
    """
    row = typical_row(state.expression)
    reference = slice(row, row + 1)
    tracker = TorsoTracker(
        head,
        problem.model,
        shape,
        state.select(reference),
        bust[reference],
        pictures[numbers[row]],
        pictures.inside,
        side,
    )
    sums: list[tuple[Tensor, Tensor]] = []
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
                sums.append(tracker.evidence(state.select(rows), bust[rows], waiting))
                done, waiting = rows.stop, []
                if progress is not None:
                    progress("torso", done, len(numbers))
    finally:
        cv2.setNumThreads(threads)
    slope, known = (torch.cat(parts) for parts in zip(*sums, strict=True))
    for run in runs:
        pooled = gaussian_mean(
            torch.cat([known[run].flatten(1), slope[run]], dim=1), problem.settings.torso_sigma
        )
        known[run], slope[run] = pooled[:, :16].unflatten(1, (4, 4)), pooled[:, 16:]
    motion = torch.linalg.solve(known + _prior(), slope)
    motion[:, :2] -= motion[:, :2].median(0).values
    x, y, yaw, roll = motion.unbind(-1)
    zero = torch.zeros_like(x)
    rotation = axis_angle_to_matrix(torch.stack([zero, yaw, roll], dim=-1))
    return TorsoMotion(rotation, torch.stack([x, y, zero], dim=-1))


def _prior() -> Float[Tensor, "4 4"]:
    return torch.diag(torch.tensor(_PRIOR_SIGMAS).square().reciprocal())


def _normal_equations(
    flow: Float[Tensor, "n p 2"],
    jacobian: Float[Tensor, "n p 2 4"],
    information: Float[Tensor, "n p 2 2"],
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 4 4"]]:
    """Right side and matrix, weighted as at the motion that explains the flow best."""
    rows = jacobian.flatten(1, 2)
    transposed = rows.transpose(1, 2)
    informed = (information @ jacobian).flatten(1, 2) / _CORRELATED
    observed = (information @ flow[..., None]).flatten(1) / _CORRELATED
    motion, prior = rows.new_zeros(len(rows), rows.shape[-1]), _prior()
    for _ in range(_SOLVER_STEPS):
        error = flow - (rows @ motion[..., None]).unflatten(1, (-1, 2)).squeeze(-1)
        share = (1 / (1 + error.square().sum(-1) / _ROBUST_PX**2)).repeat_interleave(2, dim=1)
        known = transposed @ (informed * share[..., None])
        slope = (transposed @ (observed * share)[..., None]).squeeze(-1)
        motion = torch.linalg.solve(known + prior, slope)
    return slope, known
