"""What rules for choosing frames have to know about a clip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipInfo:
    """A clip of one person."""

    key: str
    identity: str
    frames: tuple[int, ...]
    """Numbers of the frames that may be used, ascending; as in the source video."""
    typical: int
    """The frame whose expression is nearest to the clip's median."""
