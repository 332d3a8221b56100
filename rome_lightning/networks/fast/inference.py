"""Networks rewritten for inference: the same function with fewer operations.

Standardized filters are folded, what follows a nearest upsampling runs at the coarse resolution,
concatenations become sums, channels lie innermost, and 3x3 convolutions need a quarter of their products.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.acceleration.threads import num_threads
from rome_lightning.networks.compact_unet import CompactUNet
from rome_lightning.networks.fast.choice import ChosenConv2d
from rome_lightning.networks.fast.pointwise import AddedPointwise, NormalizedPointwise
from rome_lightning.networks.fast.winograd import WinogradConv2d, can_replace
from rome_lightning.networks.sizes import check_divisible
from rome_lightning.networks.texture_encoder import Bottleneck, TextureEncoder
from rome_lightning.networks.unet import UNet
from rome_lightning.networks.weight_standardization import fold_weight_standardization

_LEAST_CHANNELS = 10
_LEAST_CHANNELS_DOUBLED = 21
"""Half the harmonic mean of a convolution's channels from which on minimal filtering pays: the work of the
transforms grows with the channels only, that of the products with their square."""
_SURELY_ENOUGH = 32
"""The same from which on it pays on every processor; in between it is measured."""
_FIRST_3X3 = 2
"""Which layer of a bottleneck that is, counted behind the first 1x1 convolution."""


class InferenceNetwork(nn.Module):
    """A network's fast copy, which cannot be trained; later changes of the weights do not reach it.

    Outputs differ from the network's by rounding.

    Args:
        network: what to copy; the copy stays on its device.
        fold: for a compact network that sees blocks of pixels folded into channels (``pooling.folded``), the
            side of a block. The copy takes images that are not folded; its results are.
    """

    def __init__(self, network: UNet | CompactUNet | TextureEncoder, fold: int = 1) -> None:
        super().__init__()
        self.divisor, self.fold = fold * network.divisor, fold
        folded = fold_weight_standardization(network)
        rewritten = _coarse_encoder(folded) if isinstance(folded, TextureEncoder) else _JoinedUNet(folded)
        if fold > 1:
            assert isinstance(rewritten, _JoinedUNet)
            rewritten.fold_input(fold)
        self.network = _with_fast_layers(rewritten)
        self.network.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Run the network; the output has the resolution of the (folded) input."""
        check_divisible(inputs, self.divisor)
        outputs: Tensor = self.network(inputs.contiguous(memory_format=torch.channels_last))
        return outputs


def _folding(conv: nn.Conv2d, fold: int) -> nn.Conv2d:
    """A 3x3 convolution of folded blocks as a larger one, with a stride, of the image itself."""
    outputs, inputs = conv.out_channels, conv.in_channels // fold**2
    result = nn.Conv2d(inputs, outputs, 3 * fold, stride=fold, padding=fold, bias=conv.bias is not None)
    blocks = conv.weight.detach().unflatten(1, (inputs, fold, fold))
    result.weight = nn.Parameter(blocks.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3).contiguous())
    result.bias = conv.bias
    return result


def _with_fast_layers(module: nn.Module) -> nn.Module:
    """Replace the layers for which there are faster ones here, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and can_replace(child) and _pays(child, _LEAST_CHANNELS):
            setattr(module, name, _fastest(child, child))
        elif isinstance(child, _UpsampledConv):
            if can_replace(child.conv) and _pays(child.conv, _LEAST_CHANNELS_DOUBLED):
                setattr(module, name, _fastest(child.conv, child))
        elif isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1) and not child.weight.is_cuda:
            # A dilation means nothing here but leads torch to oneDNN, a fifth faster than what it takes for
            # one thread.
            child.dilation = (2, 2)
        else:
            _with_fast_layers(child)
    return module


def _fastest(conv: nn.Conv2d, direct: nn.Module) -> nn.Module:
    """Minimal filtering, or a choice between it and the direct way where that may be faster."""
    minimal = WinogradConv2d(conv, doubled=direct is not conv)
    return minimal if _pays(conv, _SURELY_ENOUGH) else ChosenConv2d(direct, minimal)


def _pays(conv: nn.Conv2d, least_channels: int) -> bool:
    """Whether a convolution has channels enough."""
    inputs, outputs = conv.in_channels, conv.out_channels
    # Where threads cannot share the transforms, they still share the products and direct convolutions.
    unshared = torch.get_num_threads() / num_threads()
    return inputs * outputs >= least_channels * unshared * (inputs + outputs)


class _JoinedUNet(nn.Module):
    """A U-Net without concatenations: each decoder block starts with a ``_Join``."""

    def __init__(self, network: UNet | CompactUNet) -> None:
        super().__init__()
        if isinstance(network, UNet):
            pool: nn.Module = nn.MaxPool2d(2) if network.pool is F.max_pool2d else nn.AvgPool2d(2)
            encoder = [list(block[0].main) for block in network.encoder]  # type: ignore[index]
            encoder[1:] = [[pool, *layers] for layers in encoder[1:]]
            decoder = [list(block[0].main) for block in network.decoder]  # type: ignore[index]
            upsampling, self.last = str(network.upsampling), network.to_outputs
        else:
            encoder = [list(network.stem), *(list(down) for down in network.downs)]  # type: ignore[call-overload]
            decoder = [list(block) for block in network.ups]  # type: ignore[call-overload]
            upsampling, self.last = network.upsample.mode, network.head
        self.encoder = nn.ModuleList(nn.Sequential(*layers) for layers in encoder)
        self.joins = nn.ModuleList()
        self.rests = nn.ModuleList()
        num_coarse = decoder[0][0].in_channels - decoder[0][0].out_channels if decoder else 0
        for conv, *rest in decoder:
            self.joins.append(_Join(conv, num_coarse, upsampling))
            self.rests.append(nn.Sequential(*rest))
            num_coarse = next(layer for layer in reversed(rest) if isinstance(layer, nn.Conv2d)).out_channels

    def fold_input(self, fold: int) -> None:
        """Take an image whose blocks of pixels the network was made for as channels."""
        first = self.encoder[0]
        assert isinstance(first, nn.Sequential)
        conv = first[0]
        assert isinstance(conv, nn.Conv2d)
        first[0] = _folding(conv, fold)

    def forward(self, features: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        skips: list[Tensor] = []
        for block in self.encoder:
            features = block(features)
            skips.append(features)
        skips.pop()
        for join, rest in zip(self.joins, self.rests, strict=True):
            features = rest(join(features, skips.pop()))
        return self.last(features)


class _Join(nn.Module):
    """3x3 convolution of an upsampled coarser level and a skip side by side, as a sum of two convolutions.

    Args:
        conv: the convolution of both.
        num_coarse: how many of its input channels, the first ones, are the coarser level's.
        upsampling: ``nearest`` or ``bilinear``.
    """

    def __init__(self, conv: nn.Conv2d, num_coarse: int, upsampling: str) -> None:
        super().__init__()
        of_coarse = _with_filters(conv, conv.weight[:, :num_coarse])
        self.of_skip: nn.Module = _with_filters(conv, conv.weight[:, num_coarse:], with_bias=False)
        if upsampling == "nearest":
            self.of_coarse: nn.Module = _UpsampledConv(of_coarse)
        else:
            self.of_coarse = nn.Sequential(nn.Upsample(scale_factor=2, mode=upsampling), of_coarse)

    def forward(
        self, coarse: Float[Tensor, "b c h2 w2"], skip: Float[Tensor, "b s h w"]
    ) -> Float[Tensor, "b o h w"]:
        features: Tensor = self.of_coarse(coarse)
        if isinstance(self.of_skip, WinogradConv2d | ChosenConv2d):
            return self.of_skip(skip, features)
        return features.add_(self.of_skip(skip))


def _with_filters(conv: nn.Conv2d, weight: Float[Tensor, "o i kh kw"], with_bias: bool = True) -> nn.Conv2d:
    """A convolution of stride 1 as another one with filters of its own."""
    bias = conv.bias if with_bias else None
    outputs, inputs, height, width = weight.shape
    result = nn.Conv2d(inputs, outputs, (height, width), padding=conv.padding, bias=bias is not None)  # type: ignore[arg-type]
    result.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        result.bias = nn.Parameter(bias.detach().clone())
    return result


class _UpsampledConv(nn.Module):
    """A 3x3 convolution of an image doubled by nearest upsampling, run on the image itself.

    Each output pixel sees two by two different pixels only, so four products do for nine. Rounding apart the
    results are equal, borders included.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        weight = conv.weight.detach()
        for axis in (2, 3):
            first, middle, last = weight.unbind(axis)
            weight = torch.stack([last, middle + last, first + middle, first], dim=axis)
        self.transposed = nn.ConvTranspose2d(
            conv.in_channels, conv.out_channels, 4, stride=2, padding=1, bias=conv.bias is not None
        )
        self.transposed.weight = nn.Parameter(weight.transpose(0, 1).contiguous())
        self.transposed.bias = conv.bias

    def forward(self, image: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        return self.transposed(image)


def _coarse_encoder(network: TextureEncoder) -> nn.Sequential:
    """The texture encoder with every upsampling moved into the block that follows it."""
    layers: list[nn.Module] = []
    for layer in network.net:
        if isinstance(layer, Bottleneck):
            upsamples = isinstance(layers[-1], nn.Upsample)
            if upsamples:
                layers.pop()
            layers.append(_Bottleneck(layer, upsamples))
        else:
            layers.append(layer)
    *blocks, norm, _, last = layers
    return nn.Sequential(*blocks, NormalizedPointwise(norm, last))  # type: ignore[arg-type]


class _Bottleneck(nn.Module):
    """The encoder's block, after a nearest upsampling or not, which runs all it can before the upsampling.

    Repeating every pixel changes neither the moments of a normalization nor what 1x1 convolutions do. The
    input's memory becomes the output's where the block has no projection.
    """

    def __init__(self, block: Bottleneck, upsamples: bool) -> None:
        super().__init__()
        norm, _, first, *middle, last = block.main
        if upsamples:
            middle[_FIRST_3X3] = _UpsampledConv(middle[_FIRST_3X3])  # type: ignore[arg-type]
        self.upsamples = upsamples
        self.first = NormalizedPointwise(norm, first)  # type: ignore[arg-type]
        self.middle = nn.Sequential(*middle)
        self.last = AddedPointwise(last)  # type: ignore[arg-type]
        self.skip = block.skip

    def forward(self, inputs: Float[Tensor, "b i h2 w2"]) -> Float[Tensor, "b o h w"]:
        features = self.middle(self.first(inputs))
        skip: Tensor = self.skip(inputs)
        if self.upsamples:
            skip = F.interpolate(skip, scale_factor=2, mode="nearest")
        return self.last(features, skip)
