"""Where a photograph shows what lies between lips and lids."""

import numpy as np
import torch
from skimage.draw import polygon2mask

from rome_lightning.models.openings import between_lids, between_lips, widened
from rome_lightning.types.landmarks import (
    INNER_LIPS_OUTLINE,
    LEFT_LIDS_OUTLINE,
    NUM_LANDMARKS,
    RIGHT_LIDS_OUTLINE,
)

SIZE = (48, 64)


def test_openings_are_the_polygons_of_the_outlines() -> None:
    """Stars, which are not convex, against scikit-image; corners lie on no pixel centre."""
    generator = np.random.default_rng(0)
    landmarks = torch.zeros(2, NUM_LANDMARKS, 2)
    wanted = {name: np.zeros((2, *SIZE), bool) for name in ("lips", "lids")}
    for row in range(2):
        for outline, name, centre in (
            (INNER_LIPS_OUTLINE, "lips", (30.3, 36.2)),
            (RIGHT_LIDS_OUTLINE, "lids", (14.2, 12.7)),
            (LEFT_LIDS_OUTLINE, "lids", (45.1, 13.4)),
        ):
            angle = np.linspace(0, 2 * np.pi, len(outline) + 1)[:-1]
            radius = generator.uniform(2, 10, len(outline))
            corners = np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], -1)
            landmarks[row, list(outline)] = torch.from_numpy(corners).float()
            wanted[name][row] |= polygon2mask(SIZE, corners[:, ::-1])
    assert np.array_equal(between_lips(landmarks, SIZE)[:, 0].bool().numpy(), wanted["lips"])
    assert np.array_equal(between_lids(landmarks, SIZE)[:, 0].bool().numpy(), wanted["lids"])


def test_closed_lips_vanish_and_open_ones_grow_by_what_landmarks_miss() -> None:
    opening = torch.zeros(2, 1, 512, 512)
    opening[0, :, 100, 80:120] = 1
    opening[1, :, 100:110, 80:120] = 1
    wide = widened(opening)
    assert not wide[0].any()
    assert torch.equal(wide[1].nonzero().amin(0)[1:], torch.tensor([99, 79]))
    assert torch.equal(wide[1].nonzero().amax(0)[1:], torch.tensor([110, 120]))
