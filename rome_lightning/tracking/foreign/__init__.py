"""FLAME parameters from DECA, EMOCA, SMIRK and VHAP."""

from rome_lightning.tracking.foreign.applying import (
    Applied,
    apply_to_photos,
    apply_track,
    describe,
    rows_of,
)
from rome_lightning.tracking.foreign.converting import MOST_RESIDUAL, check_flame
from rome_lightning.tracking.foreign.deca import DecaEncoder
from rome_lightning.tracking.foreign.files import FILE_SUFFIXES
from rome_lightning.tracking.foreign.formats import KINDS, FlameTrack, join_tracks, read_track

__all__ = [
    "FILE_SUFFIXES",
    "KINDS",
    "MOST_RESIDUAL",
    "Applied",
    "DecaEncoder",
    "FlameTrack",
    "apply_to_photos",
    "apply_track",
    "check_flame",
    "describe",
    "join_tracks",
    "read_track",
    "rows_of",
]
