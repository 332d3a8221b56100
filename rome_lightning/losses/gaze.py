"""Difference in gaze direction."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.losses.crops import eye_crops
from rome_lightning.losses.perceptual import PAPER_LAYERS, PerceptualLoss
from rome_lightning.types.landmarks import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS


class GazeLoss(nn.Module):
    """Perceptual loss on crops of both eyes, with VGG-16 features trained for gaze estimation.

    ``1/2 sum_eyes sum_l w_l mean |phi_l(predicted eye) - phi_l(target eye)|``, layers and weights as in the
    perceptual loss. Eyes are cropped at the target's landmarks.

    Source: ROME sec. 3.4, part of L_per (network of Cortacero et al., RT-BENE, 2019, which its authors'
    release does not contain either).

    Args:
        left: convolutions for the subject's left eye, see ``pretrained.weights.load_gaze_vgg16``.
        right: convolutions for the right eye; may be the same as the left.
    """

    def __init__(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.left = PerceptualLoss(left, PAPER_LAYERS)
        self.right = PerceptualLoss(right, PAPER_LAYERS)

    def forward(
        self,
        predicted: Float[Tensor, "b 3 h w"],
        target: Float[Tensor, "b 3 h w"],
        landmarks: Float[Tensor, "b l 2"],
    ) -> Float[Tensor, ""]:
        """Compare eyes; gradients flow into ``predicted`` only.

        Args:
            predicted: RGB in [0, 1].
            target: RGB in [0, 1].
            landmarks: 478 MediaPipe points of the target, pixels.
        """
        left, right = (
            critic(eye_crops(predicted, landmarks, corners), eye_crops(target, landmarks, corners))
            for critic, corners in ((self.left, LEFT_EYE_CORNERS), (self.right, RIGHT_EYE_CORNERS))
        )
        return (left + right) / 2
