"""Difference in identity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.losses.crops import aligned_faces
from rome_lightning.pretrained.frozen import FrozenNetwork


class IdentityLoss(nn.Module):
    """One minus the cosine of face-recognition embeddings, averaged over the images.

    ``1 - <e(a), e(b)> / (|e(a)| |e(b)|)``; both faces are cropped at the target's landmarks, so the predicted
    face must be in the same place. The network adds nothing to a state dict and is never trained.

    Source: ROME sec. 3.4, L_id. Departure from ROME: faces are aligned by five points, and the default
    network may be used commercially.

    Args:
        network: aligned faces of 112 pixels to embeddings.
        gain: factor on RGB in [0, 1] before the network.
        shift: added after that.
    """

    def __init__(self, network: nn.Module, gain: float, shift: float) -> None:
        super().__init__()
        self.network = FrozenNetwork(network)
        self.gain = gain
        self.shift = shift

    @classmethod
    def sface(cls, network: nn.Module) -> IdentityLoss:
        """Create a loss with SFace's input range, [0, 255]."""
        return cls(network, 255.0, 0.0)

    @classmethod
    def arcface(cls, network: nn.Module) -> IdentityLoss:
        """Create a loss with ArcFace's input range, [-1, 1]."""
        return cls(network, 2.0, -1.0)

    def embed(
        self, images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b l 2"]
    ) -> Float[Tensor, "b e"]:
        """Unnormalized embeddings of the faces at given landmarks.

        Args:
            images: RGB in [0, 1].
            landmarks: 478 MediaPipe points, pixels.
        """
        # Recognition networks are trained in full precision; half changes the cosine more than a step does.
        with torch.autocast(images.device.type, enabled=False):
            faces = aligned_faces(images.float(), landmarks.float())
            return self.network(faces * self.gain + self.shift)

    def forward(
        self,
        predicted: Float[Tensor, "b 3 h w"],
        target: Float[Tensor, "b 3 h w"],
        landmarks: Float[Tensor, "b l 2"],
    ) -> Float[Tensor, ""]:
        """Compare the faces of images; gradients flow into ``predicted`` only.

        Args:
            predicted: RGB in [0, 1].
            target: RGB in [0, 1].
            landmarks: 478 MediaPipe points of the target, pixels.
        """
        with torch.no_grad():
            wanted = self.embed(target, landmarks)
        return 1 - F.cosine_similarity(self.embed(predicted, landmarks), wanted, dim=-1).mean()
