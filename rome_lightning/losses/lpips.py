"""LPIPS as a loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.pretrained.frozen import FrozenNetwork


class LPIPSLoss(nn.Module):
    """Learned perceptual image patch similarity, averaged over the images.

    With AlexNet it costs a tenth of VGG-19. A model trained with it has an advantage when scored by LPIPS:
    report other metrics too.

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018.

    Args:
        network: of the ``lpips`` package, for images in [-1, 1].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = FrozenNetwork(network)

    def forward(
        self, predicted: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        """Compare images; gradients flow into ``predicted`` only.

        Args:
            predicted: RGB in [0, 1].
            target: RGB in [0, 1].
        """
        distance: Tensor = self.network(2 * predicted - 1, 2 * target.detach() - 1)
        return distance.mean()
