"""Distance of facial landmarks (average keypoint distance)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def landmark_distance(
    prediction: Float[Tensor, "b l 2"], target: Float[Tensor, "b l 2"]
) -> Float[Tensor, " b"]:
    """Mean Euclidean distance between corresponding landmarks, per face.

    Args:
        prediction: pixels; the value scales with the resolution.
        target: pixels of an image of the same size.
    """
    return (prediction - target).norm(dim=-1).mean(-1)


class LandmarkDistance(MeanOverImages):
    """Mean of ``landmark_distance`` over faces, pixels, lower is better."""

    higher_is_better = False

    def update(self, prediction: Float[Tensor, "b l 2"], target: Float[Tensor, "b l 2"]) -> None:
        """Add a batch of detected faces; arguments as for ``landmark_distance``."""
        self.add(landmark_distance(prediction, target))
