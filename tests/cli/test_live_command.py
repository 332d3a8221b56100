"""The window of ``rome live``: what is shown, and what closes it."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rome_lightning.cli.live import _shown


def frames(count):
    for number in range(count):
        picture = np.full((2, 2, 3), number, np.uint8)
        yield SimpleNamespace(image=picture, driver=SimpleNamespace(crop=picture + 100))


@pytest.mark.parametrize(
    ("keys", "visible", "count"),
    [
        ([-1] * 9, [1.0] * 9, 9),
        ([-1, -1, ord("q")], [1.0] * 3, 3),
        ([-1] * 9, [1.0, 1.0, 1.0, 0.0], 4),
        # A window that cannot say whether it is open.
        ([-1] * 9, [-1.0] * 9, 9),
    ],
)
def test_the_window_ends_by_q_or_when_it_is_closed(monkeypatch, keys, visible, count):
    shown, closed = [], []
    keys, visible = iter(keys), iter(visible)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda name, key: next(visible))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: closed.append(True))
    assert len(list(_shown(frames(9)))) == count
    assert (len(shown), closed) == (count, [True])
    # Driver on the left, avatar on the right.
    assert [picture[0, :, 0].tolist() for picture in shown[:2]] == [[100, 100, 0, 0], [101, 101, 1, 1]]
