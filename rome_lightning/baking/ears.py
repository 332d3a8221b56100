"""The rest shape of the ear lobes."""

from __future__ import annotations

import numpy as np

from rome_lightning.baking.head_mesh import FloatArray, HeadMesh

LOBE_HEIGHT = 0.014
"""Height above the lowest point of an ear up to which its lobe is rounded, metres."""
THICKNESS, LENGTH = 0.2, 0.5
"""Thickness and length of a lobe at its lowest point, relative to the base mesh's, whose lobes end in a flat
face: on a turned head, ears looked cut off."""


def round_lobes(template: FloatArray, mesh: HeadMesh) -> FloatArray:
    """The mean head with ear lobes whose outlines are half an ellipse.

    Args:
        template: carriers of the mean head, metres, (n, 3); not changed.
        mesh: the cut.
    """
    rounded = template.copy()
    ears = mesh.regions["ears"][: len(template)]
    for side in (-1, 1):
        ear = np.flatnonzero(ears & (side * template[:, 0] > 0))
        height = (template[ear, 1] - template[ear, 1].min()) / LOBE_HEIGHT
        lobe, height = ear[height < 1], height[height < 1]
        width = np.sqrt(1 - (1 - height) ** 2)
        across, along = template[lobe, 0], template[lobe, 2]
        attached, middle = side * (side * across).min(), along.mean()
        rounded[lobe, 0] = attached + (across - attached) * (THICKNESS + (1 - THICKNESS) * width)
        rounded[lobe, 2] = middle + (along - middle) * (LENGTH + (1 - LENGTH) * width)
    return rounded
