"""Strategies for choosing the frames of a pair within a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class PairChoice:
    """A strategy with its options."""

    strategy: Literal["random", "min_gap", "yaw_balanced"] = "random"
    """``random``: any frames; ``min_gap``: drivers at least ``min_gap_s`` from the source; ``yaw_balanced``:
    head turns of a clip equally often, however long the person held them."""
    min_gap_s: float = 1.0
    """For ``min_gap``: seconds between source and driver; if no frame is that far, the farthest one."""
    yaw_bin_deg: float = 10.0
    """For ``yaw_balanced``: width of the yaw bins."""

    def __post_init__(self) -> None:
        known = ("random", "min_gap", "yaw_balanced")
        if self.strategy not in known:
            raise ValueError(f"pair_strategy must be one of {', '.join(known)}, got {self.strategy!r}")
        if self.min_gap_s <= 0 or self.yaw_bin_deg <= 0:
            raise ValueError(
                f"min_gap_s and yaw_bin_deg must be positive, got {self.min_gap_s} and {self.yaw_bin_deg}"
            )

    @property
    def needs_tracking(self) -> bool:
        """Whether the choice depends on the clip's times or poses."""
        return self.strategy != "random"

    def choose(
        self,
        generator: np.random.Generator,
        frames: Sequence[int],
        num_driving: int,
        tracking: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[int, tuple[int, ...]]:
        """Choose source and drivers; drivers differ from the source and, if possible, from each other.

        The only frame of a clip, a photograph, drives itself.

        Args:
            generator: consumed.
            frames: indices in the clip to choose from; a single one is both source and driver.
            num_driving: drivers wanted.
            tracking: tensors of the clip, see ``datamodules.codec.META_TENSORS``; for all strategies
                but ``random``.
        """
        if len(frames) == 1:
            return frames[0], (frames[0],) * num_driving
        if self.strategy == "random":
            chosen = _random(generator, len(frames), num_driving)
        else:
            assert tracking is not None, f"{self.strategy} needs the clip's tensors"
            index = np.asarray(frames)
            if self.strategy == "min_gap":
                times = np.asarray(tracking["timestamp"])[index]
                chosen = _min_gap(generator, times, num_driving, self.min_gap_s)
            else:
                turns = np.floor(yaw_deg(np.asarray(tracking["pose"])[index]) / self.yaw_bin_deg)
                chosen = _balanced(generator, turns, num_driving)
        return frames[int(chosen[0])], tuple(frames[int(place)] for place in chosen[1:])


def yaw_deg(pose: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
    """Rotation of the head about the vertical axis, degrees: global rotation and neck together.

    Args:
        pose: packed as ``HeadParams.stored_pose``; the first six numbers are axis-angle vectors in radians.
    """
    rotation = _matrix(pose[:, :3]) @ _matrix(pose[:, 3:6])
    return np.degrees(np.arctan2(rotation[:, 0, 2], rotation[:, 2, 2]))


def _matrix(axis_angle: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    """Rodrigues' formula."""
    angle = np.linalg.norm(axis_angle, axis=1)[:, None, None]
    x, y, z = (axis_angle / np.maximum(angle[:, 0], 1e-12)).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _random(generator: np.random.Generator, count: int, num_driving: int) -> Int[np.ndarray, " k"]:
    if count > num_driving:
        return generator.choice(count, num_driving + 1, replace=False)
    # Fewer frames than requested: drivers repeat, but differ from the source.
    source = generator.integers(count)
    others = generator.integers(1, count, num_driving)
    return np.concatenate([[source], (source + others) % count])


def _min_gap(
    generator: np.random.Generator, times: Float[np.ndarray, " n"], num_driving: int, min_gap_s: float
) -> Int[np.ndarray, " k"]:
    source = int(generator.integers(len(times)))
    gap = np.abs(times - times[source])
    gap[source] = -1
    # Video time stamps are rounded: two frames 1 s apart must not narrowly miss a gap of 1 s.
    far = np.flatnonzero(gap >= min_gap_s - 1e-3)
    if len(far) == 0:
        far = np.array([int(gap.argmax())])
    drivers = generator.choice(far, num_driving, replace=len(far) < num_driving)
    return np.concatenate([[source], drivers])


def _balanced(
    generator: np.random.Generator, turns: Float[np.ndarray, " n"], num_driving: int
) -> Int[np.ndarray, " k"]:
    _, bins, counts = np.unique(turns, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[bins]
    source = int(generator.choice(len(turns), p=weight / weight.sum()))
    weight[source] = 0.0
    enough = np.count_nonzero(weight) >= num_driving
    drivers = generator.choice(len(turns), num_driving, replace=not enough, p=weight / weight.sum())
    return np.concatenate([[source], drivers])
