"""The rest position of teeth and tongue."""

from __future__ import annotations

import numpy as np

from rome_lightning.baking.head_mesh import BaseMesh, FloatArray, HeadMesh

UPPER_TEETH_DOWN, LOWER_TEETH_DOWN = 0.0045, 0.002
"""Metres. On the base mesh the upper teeth end where the lip ends, and the lower ones stand 7 mm above the
lower lip: an open mouth shows no upper teeth, too much of the lower. People show 2 to 4 mm of the upper, and
with a wide open mouth about 5 mm of the lower."""
TONGUE_HEIGHT, TONGUE_UP = 0.75, 0.006
"""Height of the tongue relative to the base mesh's, whose tongue touches the palate and fills an open mouth,
and how far its lower side is above that tongue's, metres: people's lies on the lower teeth."""


def seat_mouth(template: FloatArray, base: BaseMesh, mesh: HeadMesh) -> FloatArray:
    """The mean head with teeth and tongue placed as in people's open mouths.

    Args:
        template: carriers of the mean head, metres, (n, 3); not changed.
        base: the mesh that the head was cut from.
        mesh: the cut.
    """

    def of(part: str) -> np.ndarray:
        """Carriers of a part."""
        return np.isin(mesh.base_indices, base.quads[base.parts == part])

    seated = template.copy()
    height = seated[:, 1]
    height[of("upper_teeth")] -= UPPER_TEETH_DOWN
    height[of("lower_teeth")] -= LOWER_TEETH_DOWN
    tongue = of("tongue")
    bottom = height[tongue].min()
    height[tongue] = bottom + TONGUE_HEIGHT * (height[tongue] - bottom) + TONGUE_UP
    return seated
