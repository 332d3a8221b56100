"""The remaining time, estimated from progress."""

import pytest

from rome_lightning.media.remaining import time_left


@pytest.mark.parametrize(
    ("elapsed_s", "done", "total", "said"),
    [
        (10, 1, 4, "about 30 s left"),
        (60, 1, 11, "about 10 min left"),
        (3600, 1, 11, "about 10.0 h left"),
        (5, 0, 4, ""),
        (5, 4, 4, ""),
    ],
)
def test_the_rest_takes_as_long_as_what_is_done(elapsed_s, done, total, said):
    assert time_left(elapsed_s, done, total) == said
