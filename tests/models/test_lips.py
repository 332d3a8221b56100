"""Where a photograph shows what lies between the lips."""

import numpy as np
import torch
from skimage.draw import polygon2mask

from rome_lightning.models.lips import between_lips, widened
from rome_lightning.types.landmarks import INNER_LIPS_OUTLINE, NUM_LANDMARKS

SIZE = (48, 64)


def test_the_opening_is_the_polygon_of_the_inner_lips() -> None:
    """Stars, which are not convex, against scikit-image; corners lie on no pixel centre."""
    generator = np.random.default_rng(0)
    landmarks = torch.zeros(2, NUM_LANDMARKS, 2)
    wanted = np.zeros((2, *SIZE), bool)
    for row in range(2):
        angle = np.linspace(0, 2 * np.pi, len(INNER_LIPS_OUTLINE) + 1)[:-1]
        radius = generator.uniform(2, 10, len(angle))
        corners = np.stack([30.3 + radius * np.cos(angle), 26.2 + radius * np.sin(angle)], -1)
        landmarks[row, list(INNER_LIPS_OUTLINE)] = torch.from_numpy(corners).float()
        wanted[row] = polygon2mask(SIZE, corners[:, ::-1])
    assert np.array_equal(between_lips(landmarks, SIZE)[:, 0].bool().numpy(), wanted)


def test_closed_lips_vanish_and_open_ones_grow_by_what_landmarks_miss() -> None:
    opening = torch.zeros(2, 1, 512, 512)
    opening[0, :, 100, 80:120] = 1
    opening[1, :, 100:110, 80:120] = 1
    wide = widened(opening)
    assert not wide[0].any()
    assert torch.equal(wide[1].nonzero().amin(0)[1:], torch.tensor([99, 79]))
    assert torch.equal(wide[1].nonzero().amax(0)[1:], torch.tensor([110, 120]))
