"""The small U-Net of the default configurations; it trains on CPU cores."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.networks.sizes import check_divisible


class CompactUNet(nn.Module):
    """U-Net with GroupNorm and skip concatenation; image sides must divide by ``2 ** (num_levels - 1)``.

    Level ``i`` has ``min(base_width * 2 ** i, max_width)`` channels. The output is linear: no activation
    follows the last convolution. The input is converted to channels-last, which the CPU kernels prefer.

    Departure from ROME, whose U-Nets (``rome_lightning.networks.UNet``) have 30 times the parameters.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        base_width: channels at full resolution.
        num_levels: resolutions, the full one included.
        max_width: upper bound of the channels of any level; ``None`` for no bound.
        downsampling: ``max`` or ``average`` pooling, or a convolution of ``stride`` 2.
        upsampling: interpolation of the coarser level before it meets the skip.
        activation: ``silu`` or ``relu``, after every normalization.
        num_groups: groups of each normalization; lowered to the nearest divisor of the channels.

    Raises:
        ValueError: an argument is out of range, or (on call) the input does not halve evenly.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        base_width: int = 16,
        num_levels: int = 4,
        max_width: int | None = None,
        downsampling: Literal["max", "average", "stride"] = "max",
        upsampling: Literal["nearest", "bilinear"] = "nearest",
        activation: Literal["silu", "relu"] = "silu",
        num_groups: int = 8,
    ) -> None:
        super().__init__()
        if num_levels < 1 or base_width < 1:
            raise ValueError(
                f"num_levels and base_width must be at least 1, got {num_levels} and {base_width}"
            )
        if downsampling not in ("max", "average", "stride"):
            raise ValueError(f"downsampling must be max, average or stride, got {downsampling!r}")
        if upsampling not in ("nearest", "bilinear"):
            raise ValueError(f"upsampling must be nearest or bilinear, got {upsampling!r}")
        if activation not in ("silu", "relu"):
            raise ValueError(f"activation must be silu or relu, got {activation!r}")
        self.divisor = 2 ** (num_levels - 1)
        widths = [
            min(base_width * 2**level, max_width or base_width * 2**level) for level in range(num_levels)
        ]

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                *_normalized_conv(inputs, outputs, num_groups, activation),
                *_normalized_conv(outputs, outputs, num_groups, activation),
            )

        self.stem = block(in_channels, widths[0])
        self.downs = nn.ModuleList(
            nn.Sequential(_downsample(downsampling, fine), block(fine, coarse))
            for fine, coarse in pairwise(widths)
        )
        self.upsample = nn.Upsample(
            scale_factor=2, mode=upsampling, align_corners=False if upsampling == "bilinear" else None
        )
        self.ups = nn.ModuleList(
            block(coarse + fine, fine) for fine, coarse in reversed(list(pairwise(widths)))
        )
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Run the network; the output has the resolution of the input."""
        check_divisible(inputs, self.divisor)
        features = self.stem(inputs.contiguous(memory_format=torch.channels_last))
        skips = []
        for down in self.downs:
            skips.append(features)
            features = down(features)
        for up in self.ups:
            features = up(torch.cat([self.upsample(features), skips.pop()], dim=1))
        return self.head(features)


def _normalized_conv(inputs: int, outputs: int, num_groups: int, activation: str) -> list[nn.Module]:
    """3x3 convolution, GroupNorm and activation; the convolution has no bias because the norm has one."""
    groups = next(groups for groups in range(min(num_groups, outputs), 0, -1) if outputs % groups == 0)
    function = nn.SiLU(inplace=True) if activation == "silu" else nn.ReLU(inplace=True)
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(groups, outputs), function]


def _downsample(kind: str, channels: int) -> nn.Module:
    """Halve both image sides."""
    if kind == "stride":
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    return nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2)
