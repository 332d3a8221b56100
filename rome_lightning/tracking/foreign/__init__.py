"""FLAME parameters from DECA, EMOCA, SMIRK and VHAP."""

from rome_lightning.tracking.foreign.applying import (
    MOST_RESIDUAL,
    Applied,
    apply_to_photos,
    apply_track,
    describe,
    rows_of,
)
from rome_lightning.tracking.foreign.files import FILE_SUFFIXES
from rome_lightning.tracking.foreign.formats import KINDS, FlameTrack, join_tracks, read_track

__all__ = [
    "FILE_SUFFIXES",
    "KINDS",
    "MOST_RESIDUAL",
    "Applied",
    "FlameTrack",
    "apply_to_photos",
    "apply_track",
    "describe",
    "join_tracks",
    "read_track",
    "rows_of",
]
