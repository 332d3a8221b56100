"""Motion as files: ARKit's expressions as Live Link Face's CSV, and all parameters as NumPy arrays.

The CSV has a line per frame: time code, number of values, the 52 weights by ARKit's names, then the rotation
of head and eyeballs as yaw, pitch and roll in radians. Yaw turns to the person's left, pitch down, roll
towards the person's right shoulder: R = R_y(yaw) R_x(pitch) R_z(roll) in axes x to the person's left, y up, z
ahead. It has no framing and does not tell neck from bust.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.head import HeadModel, have_same_parameters
from rome_lightning.media.atomic import atomic_file, write_atomic
from rome_lightning.types import HeadParams

DEFAULT_FPS = 25.0
"""Of recordings without times."""
_CODE_RATE = 60
"""Frames per second of the last field of a time code."""
_TURNED = ("Head", "LeftEye", "RightEye")
_ANGLES = ("Yaw", "Pitch", "Roll")
_MOST_FRAMES = 1_000_000
MOTION_SUFFIXES = (".csv", ".npz")
"""Of the files that ``read_motion`` reads."""


@dataclass(frozen=True)
class RecordedMotion:
    """Poses over time."""

    params: HeadParams
    """One row per frame. Those from a CSV have the neutral camera and turn by the neck alone."""
    times_s: Float[Tensor, " n"]
    """When each is shown, rising, from 0."""
    framed: bool
    """Whether the camera means anything."""
    lost: Bool[Tensor, " n"]
    """Frames without a face."""

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        span = float(self.times_s[-1]) if len(self.times_s) else 0.0
        return (len(self.times_s) - 1) / span if span > 0 else DEFAULT_FPS


def write_motion(motion: RecordedMotion, path: Path, head: HeadModel) -> Path:
    """Write a motion, as CSV or as arrays.

    Args:
        motion: to write; lost frames are left out of a CSV, and marked among arrays.
        path: ``.csv`` or ``.npz``.
        head: the head model of the parameters; a CSV wants ARKit's expressions.

    Raises:
        ValueError: see ``check_motion_file``.
    """
    check_motion_file(path, head)
    if path.suffix.lower() == ".csv":
        write_atomic(path, _as_csv(motion, head))
        return path
    params = motion.params
    left, right = params.eye_pose.split(3, dim=-1)
    tensors = {
        "expression": params.expression,
        "global_orient": params.global_pose,
        "neck_pose": params.neck_pose,
        "jaw_pose": params.jaw_pose,
        "leye_pose": left,
        "reye_pose": right,
        "camera": params.camera,
        "torso_shift": params.torso_shift,
        "times_s": motion.times_s,
        "lost": motion.lost,
    }
    with atomic_file(path) as file:
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        np.savez_compressed(file, head=np.str_(head.name), **arrays)
    return path


def read_motion(path: Path, head: HeadModel) -> RecordedMotion:
    """Read a motion: Live Link Face's CSV, or arrays of ``write_motion`` or of ``export --format params``.

    Args:
        path: ``.csv`` or ``.npz``.
        head: the head model to drive.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, of another head, or a CSV for a head without ARKit's expressions.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no motion at {path}")
    motion = _from_csv(path, head) if path.suffix.lower() == ".csv" else _from_arrays(path, head)
    if not all(bool(tensor.isfinite().all()) for tensor in (*vars(motion.params).values(), motion.times_s)):
        raise ValueError(f"{path} has non-finite numbers")
    if bool((motion.times_s[1:] <= motion.times_s[:-1]).any()):
        raise ValueError(f"the times of {path} do not increase")
    return motion


def check_motion_file(path: Path, head: HeadModel) -> None:
    """Refuse a file that cannot have the motion of a head, by its name.

    Args:
        path: to write, or to read.
        head: the head model of the parameters; a CSV wants ARKit's expressions.

    Raises:
        ValueError: another suffix, or a head without ARKit's expressions for a CSV.
    """
    suffix = path.suffix.lower()
    if suffix not in MOTION_SUFFIXES:
        raise ValueError(f"motion files are .csv (Live Link Face) or .npz (all parameters), got {path}")
    if suffix == ".csv" and not head.has_arkit:
        raise ValueError(
            f"{path} has ARKit's expressions, which {head.name} lacks; use an .npz of `rome avatar track` "
            "with this head"
        )


def _column(name: str) -> str:
    return name[0].upper() + name[1:]


def _as_csv(motion: RecordedMotion, head: HeadModel) -> bytes:
    params, angles = motion.params, arkit_angles(motion.params)
    names = [_column(name) for name in head.expression_names]
    names += [part + angle for part in _TURNED for angle in _ANGLES]
    values = torch.cat([params.expression, angles], dim=-1).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Timecode", "BlendshapeCount", *names])
    for row, time, lost in zip(values, motion.times_s.tolist(), motion.lost.tolist(), strict=True):
        if not lost:
            writer.writerow([_time_code(time), len(row), *(f"{value:.7f}" for value in row)])
    return text.getvalue().encode()


def arkit_angles(params: HeadParams) -> Float[Tensor, "n 9"]:
    """Yaw, pitch and roll of the head, the left and the right eye in radians, as in a CSV."""
    turned = axis_angle_to_matrix(params.global_pose) @ axis_angle_to_matrix(params.neck_pose)
    left, right = params.eye_pose.split(3, dim=-1)
    turns = [turned, axis_angle_to_matrix(left), axis_angle_to_matrix(right)]
    return torch.cat([_euler(turn) for turn in turns], dim=-1)


def _time_code(time: float) -> str:
    """Hours, minutes, seconds, and frames of 1/60 s with thousandths."""
    thousandths = round(time * _CODE_RATE * 1000)
    seconds, rest = divmod(thousandths, _CODE_RATE * 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{rest / 1000:06.3f}"


def _seconds(code: str) -> float:
    hours, minutes, seconds, frames = (float(part) for part in code.split(":"))
    return hours * 3600 + minutes * 60 + seconds + frames / _CODE_RATE


def _euler(turn: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """Yaw, pitch, roll of R_y R_x R_z."""
    pitch = torch.asin((-turn[:, 1, 2]).clamp(-1, 1))
    yaw = torch.atan2(turn[:, 0, 2], turn[:, 2, 2])
    roll = torch.atan2(turn[:, 1, 0], turn[:, 1, 1])
    return torch.stack([yaw, pitch, roll], dim=-1)


def _turned(angles: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Yaw, pitch, roll to axis-angle."""
    zero = torch.zeros(len(angles))
    yaw, pitch, roll = angles.unbind(-1)
    about_y = axis_angle_to_matrix(torch.stack([zero, yaw, zero], -1))
    about_x = axis_angle_to_matrix(torch.stack([pitch, zero, zero], -1))
    about_z = axis_angle_to_matrix(torch.stack([zero, zero, roll], -1))
    return matrix_to_axis_angle(about_y @ about_x @ about_z)


def _from_csv(path: Path, head: HeadModel) -> RecordedMotion:
    check_motion_file(path, head)
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from error
    if not rows or len(rows) > _MOST_FRAMES:
        raise ValueError(f"{path} has {len(rows)} frames; expected 1 to {_MOST_FRAMES}")
    columns = {name.strip().lower(): name for name in rows[0] if name}
    missing = [name for name in head.expression_names if name.lower() not in columns]
    if missing:
        raise ValueError(f"{path} is not a Live Link Face CSV: it has no column {_column(missing[0])}")

    def value(row: dict[str, str], name: str) -> float:
        column = columns.get(name.lower())
        return float(row[column]) if column is not None else 0.0

    turns = [part + angle for part in _TURNED for angle in _ANGLES]
    try:
        expression = torch.tensor([[value(row, name) for name in head.expression_names] for row in rows])
        angles = torch.tensor([[value(row, name) for name in turns] for row in rows])
        times = _times([row.get(columns.get("timecode", ""), "") for row in rows])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has an unreadable line: {error}") from error
    if bool((angles.abs() > 2 * math.pi).any()):
        raise ValueError(f"{path} has angles beyond a full turn; they must be in radians")
    neck, left, right = (_turned(part) for part in angles.split(3, dim=-1))
    still = HeadParams.neutral(len(rows), head.num_shape, head.num_expression)
    params = HeadParams(
        still.shape,
        expression.clamp(0, 1),
        still.global_pose,
        neck,
        still.jaw_pose,
        torch.cat([left, right], dim=-1),
        still.camera,
    )
    return RecordedMotion(params, times, False, torch.zeros(len(rows), dtype=torch.bool))


def _times(codes: list[str]) -> Float[Tensor, " n"]:
    """Seconds from the first time code; at midnight they go on."""
    if not all(codes):
        return torch.arange(len(codes)) / _CODE_RATE
    times = np.array([_seconds(code) for code in codes])
    days = np.concatenate([[0], np.cumsum(np.diff(times) < -43_200)])
    times = times + 86_400 * days
    return torch.from_numpy(times - times[0]).float()


def _from_arrays(path: Path, head: HeadModel) -> RecordedMotion:
    names = ("expression", "global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose", "camera")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in (*names, "head")}
            times: NDArray[np.float64] | None = file["times_s"] if "times_s" in file.files else None
            lost: NDArray[np.bool_] | None = file["lost"] if "lost" in file.files else None
            if "torso_shift" in file.files:
                found["torso_shift"] = file["torso_shift"]
    # Damaged files make numpy, zipfile and zlib raise errors that share no base.
    except Exception as error:
        raise ValueError(f"{path} is not a recording of parameters, or damaged: {error}") from error
    if not have_same_parameters(str(found.pop("head")), head.name):
        raise ValueError(f"{path} was recorded with another head model than {head.name}; track it again")
    count = len(np.atleast_1d(found["expression"]))
    for name, values in found.items():
        shape, kind = values.shape, values.dtype
        width = head.num_expression if name == "expression" else 3
        if shape != (count, width) or count == 0 or kind.kind not in "fiu":
            raise ValueError(
                f"{path}: {name} is {kind} of shape {shape}, expected numbers ({count}, {width})"
            )
    tensors = {name: torch.from_numpy(found[name].astype(np.float32)) for name in found}
    times = np.arange(count) / DEFAULT_FPS if times is None else times
    lost = np.zeros(count, dtype=np.bool_) if lost is None else lost
    if times.shape != (count,) or lost.shape != (count,) or times.dtype.kind not in "fiu":
        raise ValueError(f"{path}: times_s and lost must have {count} values")
    seconds = torch.from_numpy(times.astype(np.float32))
    params = HeadParams(
        torch.zeros(count, head.num_shape),
        tensors["expression"],
        tensors["global_orient"],
        tensors["neck_pose"],
        tensors["jaw_pose"],
        torch.cat([tensors["leye_pose"], tensors["reye_pose"]], dim=-1),
        tensors["camera"],
        tensors.get("torso_shift", torch.zeros(count, 3)),
    )
    return RecordedMotion(params, seconds - seconds[0], True, torch.from_numpy(lost.astype(np.bool_)))
