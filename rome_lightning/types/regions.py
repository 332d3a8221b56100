"""Labels of the per-pixel region map."""

from enum import IntEnum


class Region(IntEnum):
    """Classes of a region map; 0 to 5 are those of the multiclass portrait segmenter."""

    BACKGROUND = 0
    HAIR = 1
    BODY_SKIN = 2
    FACE_SKIN = 3
    CLOTHES = 4
    OTHER = 5
    OUTSIDE = 6
    """Beyond the border of the video: the content is unknown, so losses and metrics ignore it."""
