"""Motion of a rig as a glTF animation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.export.gltf import Buffer
from rome_lightning.export.skeleton import Bone
from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle, rotate_about
from rome_lightning.head import JOINTS
from rome_lightning.types import HeadParams


@dataclass(frozen=True)
class Motion:
    """Poses over time, for an animation clip."""

    params: HeadParams
    """One row per frame; shape and camera are not used."""
    times_s: Float[Tensor, " n"]
    """Time of each frame, increasing, from 0."""
    name: str


def animation(
    buffer: Buffer, motion: Motion, num_still: int, trunk: Sequence[Bone], is_standing: bool
) -> dict[str, Any]:
    """Weights of all expressions, rotations of all joints and the torso's shift over time.

    The trunk of a standing rig stays still, because the arms hang on it; the head bone carries the whole
    rotation.

    Args:
        buffer: gets the values.
        motion: to write.
        num_still: further morph targets, which stay at 0.
        trunk: the bones of root and neck.
        is_standing: whether the rig has a body.
    """
    params = motion.params
    times = buffer.accessor(motion.times_s.float().cpu().numpy(), bounds=True)
    left, right = params.eye_pose.split(3, dim=-1)
    above = (whole_turn(params),) if is_standing else (params.global_pose, params.neck_pose)
    poses = (*above, params.jaw_pose, left, right)
    first = 1 + len(JOINTS) - len(poses)
    weights = torch.nn.functional.pad(params.expression.float().cpu(), (0, num_still))
    tracks = [(0, "weights", weights.flatten())]
    tracks += [(node, "rotation", quaternions(pose)) for node, pose in enumerate(poses, start=first)]
    if not is_standing and bool(params.torso_shift.any()):
        shift = params.torso_shift.float().cpu()
        moved = rotate_about(shift[:, None], params.global_pose.float().cpu(), torch.zeros_like(shift))[:, 0]
        root, neck = (torch.tensor(bone.place, dtype=torch.float32) for bone in trunk)
        # The neck hangs on the root and stays.
        tracks += [(1, "translation", root + moved), (2, "translation", neck - root - shift)]
    return {
        "name": motion.name,
        "channels": [
            {"sampler": index, "target": {"node": node, "path": path}}
            for index, (node, path, _) in enumerate(tracks)
        ],
        "samplers": [
            {"input": times, "output": buffer.accessor(values.numpy()), "interpolation": "LINEAR"}
            for _, _, values in tracks
        ],
    }


def whole_turn(params: HeadParams) -> Float[Tensor, "n 3"]:
    """How global pose and neck turn the head together: rotation vectors, radians."""
    return matrix_to_axis_angle(
        axis_angle_to_matrix(params.global_pose) @ axis_angle_to_matrix(params.neck_pose)
    )


def quaternions(rotations: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Rotation vectors in radians as unit quaternions (x, y, z, w), each on the side of the one before."""
    vectors = rotations.double().cpu()
    angle = vectors.norm(dim=-1, keepdim=True)
    # torch's sinc has the factor pi.
    found = torch.cat([vectors * torch.sinc(angle / (2 * torch.pi)) / 2, (angle / 2).cos()], dim=-1)
    flips = (found[1:] * found[:-1]).sum(-1) < 0
    signs = torch.where(flips, -1.0, 1.0).double().cumprod(0)
    found[1:] *= signs[:, None]
    return found.float()
