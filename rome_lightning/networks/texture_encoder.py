"""The texture encoder of the release, E_tex: image to neural texture in UV space."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.networks.recomputed_input import conv_of_activated
from rome_lightning.networks.sizes import check_divisible
from rome_lightning.networks.weight_standardization import WeightStandardizedConv2d, group_norm


class Bottleneck(nn.Module):
    """Pre-activation residual block: 1x1, 3x3, 3x3 standardized and 1x1 plain convolutions."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            group_norm(in_channels),
            nn.ReLU(inplace=True),
            WeightStandardizedConv2d(in_channels, mid_channels, 1, bias=False),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            WeightStandardizedConv2d(mid_channels, mid_channels, 3, padding=1, bias=False),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            WeightStandardizedConv2d(mid_channels, mid_channels, 3, padding=1, bias=False),
            group_norm(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 1, bias=False),
        )
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Add the block's change to the (projected) input."""
        features = inputs
        for norm, conv in zip(self.main[0::3], self.main[2::3], strict=True):
            features = conv_of_activated(features, norm, conv)
        return features + self.skip(inputs)


class TextureEncoder(nn.Module):
    """Autoencoder without skips that maps an image straight to a texture of the same resolution.

    The network has to learn the unwrapping. The defaults are the release's architecture, and the state
    dict has its key names. The output is linear.

    Source: ROME sec. 3.2, E_tex, and the release.

    Args:
        in_channels: RGB in [0, 1] and the foreground mask.
        out_channels: channels of the neural texture.
        base_width: channels at full resolution; they double at every level. Blocks work on a quarter.
        num_levels: resolutions, the full one included; image sides must divide by ``2 ** (num_levels - 1)``.
        max_width: upper bound of the channels; ``None`` for eight times ``base_width``.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 8,
        base_width: int = 256,
        num_levels: int = 4,
        max_width: int | None = None,
    ) -> None:
        super().__init__()
        if base_width % 4 or num_levels < 1:
            raise ValueError(
                "base_width must be divisible by 4 and num_levels at least 1, "
                f"got {base_width} and {num_levels}"
            )
        limit = 8 * base_width if max_width is None else max_width
        self.divisor = 2 ** (num_levels - 1)
        widths = [min(base_width * 2**level, limit) for level in range(num_levels)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 7, padding=3, bias=False)]
        previous = widths[0]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.MaxPool2d(2))
            layers += [Bottleneck(previous, width // 4, width), Bottleneck(width, width // 4, width)]
            previous = width
        for level in reversed(range(num_levels)):
            width, narrower = widths[level], widths[max(level - 1, 0)]
            layers += [Bottleneck(width, width // 4, width), Bottleneck(width, width // 4, narrower)]
            if level:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        layers += [group_norm(widths[0]), nn.ReLU(inplace=True), nn.Conv2d(widths[0], out_channels, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Run the network; the output has the resolution of the input."""
        check_divisible(inputs, self.divisor)
        *layers, norm, _, to_outputs = self.net
        features = inputs
        for layer in layers:
            features = layer(features)
        return conv_of_activated(features, norm, to_outputs)
