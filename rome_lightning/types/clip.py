"""Properties of a clip for rules that choose frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FrameState:
    """A tracker's measurements in a frame."""

    head_pose: tuple[float, float, float]
    """Rotation of the head, bust and neck together: axis-angle, radians."""
    eye_opening: float
    """See ``rome_lightning.geometry.openings``."""
    mouth_opening: float
    """The same."""


@dataclass(frozen=True)
class ClipInfo:
    """A clip of one person."""

    key: str
    identity: str
    frames: tuple[int, ...]
    """Numbers of the frames that may be used, ascending; as in the source video."""
    typical: int
    """The frame whose expression is nearest to the clip's median."""
    states: Mapping[int, FrameState] = field(default_factory=dict, hash=False)
    """By frame number, ``typical`` included; empty where nobody tracked the clip."""
