"""Jitter: acceleration of landmarks or vertices that the driver does not have."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def acceleration(points: Float[Tensor, "t p d"]) -> Float[Tensor, " t2"]:
    """Mean length of the second differences of each inner frame, units of ``points`` per frame squared.

    Args:
        points: positions in consecutive, evenly spaced frames, at least three.
    """
    return (points[2:] - 2 * points[1:-1] + points[:-2]).norm(dim=-1).mean(-1)


def jitter(prediction: Float[Tensor, "t p d"], driver: Float[Tensor, "t p d"]) -> Float[Tensor, " t2"]:
    """Acceleration of the prediction minus that of the driver, for each inner frame.

    0 for a prediction that moves like its driver, negative for one that moves too smoothly. Both terms
    contain the landmark detector's own noise.

    Args:
        prediction: pixels or millimetres, consecutive frames.
        driver: the same frames of the driver.
    """
    return acceleration(prediction) - acceleration(driver)


class Jitter(MeanOverImages):
    """Mean of ``jitter`` over inner frames, lower is better."""

    higher_is_better = False

    def update(self, prediction: Float[Tensor, "t p d"], driver: Float[Tensor, "t p d"]) -> None:
        """Add one clip; arguments as for ``jitter``."""
        self.add(jitter(prediction, driver))
