"""Pictures of one size in rows, as near to a wide screen as their number allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

_WIDE = 16 / 9
_ONE_ROW = 4


def grid(pictures: Sequence[UInt8[np.ndarray, "h w c"]]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Pictures from left to right, row by row; cells that are left over are white, or transparent.

    Args:
        pictures: of one size, at least one, RGB or all of them RGBA.
    """
    height, width, channels = pictures[0].shape
    columns = len(pictures)
    if columns > _ONE_ROW:
        columns = min(columns, max(1, round(math.sqrt(columns * _WIDE * height / width))))
    rows = math.ceil(len(pictures) / columns)
    whole = np.full((rows * height, columns * width, channels), 255 if channels == 3 else 0, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return whole
