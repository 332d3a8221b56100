"""Why frames are not used."""

from __future__ import annotations

from enum import IntFlag

from jaxtyping import Int16
from torch import Tensor


class Problem(IntFlag):
    """Why a frame is not used; the most telling first."""

    NO_FACE = 1
    SEVERAL_FACES = 2
    OTHER_SHOT = 4
    SMALL = 8
    OUTSIDE = 16
    PROFILE = 32
    COVERED = 64
    POOR_FIT = 128
    UPSIDE_DOWN = 256


REASONS = {
    Problem.NO_FACE: "no face",
    Problem.UPSIDE_DOWN: "face upside down",
    Problem.SEVERAL_FACES: "several faces",
    Problem.OTHER_SHOT: "another shot or a jump",
    Problem.SMALL: "face too small",
    Problem.OUTSIDE: "face leaves the crop",
    Problem.PROFILE: "profile",
    Problem.COVERED: "face covered",
    Problem.POOR_FIT: "head does not fit",
}
"""Short stable texts for reports."""


def reasons_of(problems: Int16[Tensor, " n"]) -> tuple[str, ...]:
    """The most telling problem of each frame, one of ``REASONS``; empty for a frame to be used."""
    return tuple(
        next((text for problem, text in REASONS.items() if bits & problem), "") for bits in problems.tolist()
    )
