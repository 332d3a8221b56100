"""Images side by side."""

from __future__ import annotations

import numpy as np
import pytest

from rome_lightning.report.grid import grid


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (1, 4)), (5, (2, 3)), (9, (3, 4))]
)
def test_every_picture_has_a_cell_in_order(count: int, shape: tuple[int, int]) -> None:
    pictures = [np.full((4, 4, 4), index, np.uint8) for index in range(count)]
    rows, columns = shape
    cells = grid(pictures).reshape(rows, 4, columns, 4, 4).swapaxes(1, 2).reshape(-1, 4, 4, 4)
    assert np.array_equal(cells[:count], np.stack(pictures))
    assert (cells[count:] == 0).all()
    # Without transparency, empty cells are white.
    plain = grid([picture[..., :3] for picture in pictures])
    assert plain.shape == (4 * rows, 4 * columns, 3)
    assert (plain[-1, -1] == (255 if rows * columns > count else count - 1)).all()
