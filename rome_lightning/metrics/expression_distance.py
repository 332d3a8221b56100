"""Distance between facial expressions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rome_lightning.metrics.per_image import MeanOverImages


def expression_distance(
    prediction: Float[Tensor, "b e"], target: Float[Tensor, "b e"]
) -> Float[Tensor, " b"]:
    """Mean absolute difference of expression coefficients, per face.

    Args:
        prediction: coefficients of one model, such as MediaPipe's 52 blendshape scores in [0, 1]; values of
            different models are not comparable.
        target: coefficients of the same model.
    """
    return (prediction - target).abs().mean(-1)


class ExpressionDistance(MeanOverImages):
    """Mean over faces of ``expression_distance``, lower is better."""

    higher_is_better = False

    def update(self, prediction: Float[Tensor, "b e"], target: Float[Tensor, "b e"]) -> None:
        """Add a batch of detected faces; arguments as for ``expression_distance``."""
        self.add(expression_distance(prediction, target))
