"""The U-Net of the release: geometry network E_geom and image network E_img."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.networks.recomputed_input import conv_of_activated, conv_of_kept, conv_of_prepared
from rome_lightning.networks.sizes import check_divisible
from rome_lightning.networks.weight_standardization import WeightStandardizedConv2d, group_norm


class DoubleConv(nn.Module):
    """Twice: weight-standardized 3x3 convolution, GroupNorm, ReLU."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            WeightStandardizedConv2d(in_channels, mid_channels, 3, padding=1, bias=False),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            WeightStandardizedConv2d(mid_channels, out_channels, 3, padding=1, bias=False),
            group_norm(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Run both convolutions."""
        return self._finish(conv_of_kept(inputs, self.main[0]))

    def join(
        self, coarse: Float[Tensor, "b c h2 w2"], skip: Float[Tensor, "b s h w"], upsampling: str
    ) -> Float[Tensor, "b o h w"]:
        """Run both convolutions on a coarser level and a skip side by side."""

        def side_by_side(coarse: Tensor, skip: Tensor) -> Tensor:
            return torch.cat([F.interpolate(coarse, scale_factor=2, mode=upsampling), skip], dim=1)

        return self._finish(conv_of_prepared(side_by_side, (coarse, skip), self.main[0]))

    def _finish(self, features: Float[Tensor, "b m h w"]) -> Float[Tensor, "b o h w"]:
        """All that follows the first convolution."""
        _, norm, _, conv, *last = self.main
        features = conv_of_activated(features, norm, conv)
        for layer in last:
            features = layer(features)
        return features


class UNet(nn.Module):
    """U-Net with skip concatenation; the output is linear.

    The defaults are the release's architecture, and the state dict has its key names.

    Source: ROME sec. 3.2 and the release.

    Args:
        in_channels: channels of the input; 47 in the release.
        out_channels: channels of the output; 32 for E_geom, 4 for E_img.
        base_width: channels after the first block; they double at every level. Must be even.
        num_levels: resolutions, the full one included; image sides must divide by ``2 ** (num_levels - 1)``.
        max_width: upper bound of the channels; ``None`` for four times ``base_width``.
        downsampling: ``max`` pooling (release) or ``average`` (paper).
        upsampling: ``nearest`` (release) or ``bilinear`` (paper).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        base_width: int = 128,
        num_levels: int = 4,
        max_width: int | None = None,
        downsampling: Literal["max", "average"] = "max",
        upsampling: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        super().__init__()
        self.pool = F.max_pool2d if downsampling == "max" else F.avg_pool2d
        self.upsampling = upsampling
        if base_width % 2 or num_levels < 1:
            raise ValueError(
                f"base_width must be even and num_levels at least 1, got {base_width} and {num_levels}"
            )
        limit = 4 * base_width if max_width is None else max_width
        self.divisor = 2 ** (num_levels - 1)
        first = base_width // 2
        widths = [min(base_width * 2**level, limit) for level in range(num_levels)]
        # Each level sits in a Sequential of its own because the released key names count it.
        self.encoder = nn.ModuleList(
            [nn.Sequential(DoubleConv(in_channels, first, widths[0]))]
            + [nn.Sequential(DoubleConv(fine, fine, coarse)) for fine, coarse in pairwise(widths)]
        )
        self.decoder = nn.ModuleList()
        incoming = widths[-1]
        for narrower, fine in reversed(list(pairwise([first, *widths[:-1]]))):
            self.decoder.append(nn.Sequential(DoubleConv(incoming + fine, fine, narrower)))
            incoming = narrower
        self.to_outputs = nn.Conv2d(incoming, out_channels, 1)

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Run the network; the output has the resolution of the input."""
        check_divisible(inputs, self.divisor)
        skips: list[Tensor] = []
        features = inputs
        for level, block in enumerate(self.encoder):
            features = block(features if level == 0 else self.pool(features, 2))
            skips.append(features)
        skips.pop()
        for block in self.decoder:
            joined = block.get_submodule("0")
            assert isinstance(joined, DoubleConv)
            features = joined.join(features, skips.pop(), self.upsampling)
        return self.to_outputs(features)
