"""The networks of the public ROME release, from a checkout of it, or ours of the same architecture.

None of the release's code is here: `--release CHECKOUT` names a clone of https://github.com/SamsungLabs/rome
(non-commercial), whose classes are imported from there with random weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rome_lightning.networks import OffsetMLP, TextureEncoder, UNet

SIZE = 256
"""Side of the images that the released networks are made for, pixels."""


@dataclass(frozen=True)
class Released:
    """Random weights; inputs and outputs are the same from both sources."""

    source: str
    """How the table calls them."""
    encoder: nn.Module
    """(1, 4, h, w) to (1, 8, h, w)."""
    geometry: nn.Module
    """(1, 47, h, w) to (1, 32, h, w)."""
    image: nn.Module
    """(1, 47, h, w) to (1, 4, h, w)."""
    vertex: nn.Module
    """(n, 58) to (n, 3)."""


def released_networks(checkout: Path | None) -> Released:
    """From a checkout, or without one ours, which have its key names and outputs."""
    if checkout is None:
        networks = TextureEncoder(), UNet(47, 32), UNet(47, 4), OffsetMLP()
        return Released("released architecture, ours as it is trained", *networks)
    sys.path.insert(0, str(checkout))
    from src.networks.autoencoder import Autoencoder  # type: ignore[import-not-found]
    from src.networks.mlp import MLP  # type: ignore[import-not-found]
    from src.networks.unet import UNet as ReleasedUNet  # type: ignore[import-not-found]

    kinds = {"norm_layer_type": "gn", "activation_type": "relu", "conv_layer_type": "ws_conv"}
    encoder = Autoencoder(
        64, 512, 4, 0, 2, 4, "bottleneck",
        input_channels=4, input_size=SIZE, output_channels=8, use_psp=False, **kinds,
    )  # fmt: skip
    sampling = {"downsampling_type": "maxpool", "upsampling_type": "nearest"}

    def unet(outputs: int) -> nn.Module:
        return ReleasedUNet(
            64, 512, 4, 1, 2, "conv", input_channels=47, output_channels=outputs,
            skip_connection_type="cat", **kinds, **sampling,
        )  # fmt: skip

    vertex = MLP(256, 8, 4, input_channels=58, output_channels=3, activation_type="relu", last_bias=False)
    return Released("released networks", encoder, unet(32), unet(4), vertex)
