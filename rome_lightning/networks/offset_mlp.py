"""The per-vertex network of the release, G_geom."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class OffsetMLP(nn.Module):
    """Eight hidden layers with the input repeated in the middle; the output is linear without bias.

    Its key names are the release's; ``tanh`` and the region mask are applied by the caller.

    Source: ROME sec. 3.2, G_geom, and the release.

    Args:
        in_channels: latent geometry sample and encoded UV; 32 + 26 in the release.
        out_channels: components of the offset magnitude.
        width: channels of the hidden layers.
    """

    def __init__(self, in_channels: int = 58, out_channels: int = 3, width: int = 256) -> None:
        super().__init__()
        self.block_1 = nn.Sequential(*_hidden_layers(in_channels, width))
        self.block_2 = nn.Sequential(
            *_hidden_layers(width + in_channels, width), nn.Linear(width, out_channels, bias=False)
        )

    def forward(self, features: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Evaluate every row by itself."""
        return self.block_2(torch.cat([features, self.block_1(features)], dim=-1))


def _hidden_layers(in_channels: int, width: int) -> list[nn.Module]:
    """Four linear layers, each followed by ReLU."""
    layers: list[nn.Module] = []
    for inputs in (in_channels, width, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True)]
    return layers
