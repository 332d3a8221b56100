"""LPIPS' AlexNet in less time, on the CPU and without gradients: the same features up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.acceleration import has_kernels
from rome_lightning.metrics.lpips import lpips_features
from rome_lightning.networks.fast.eight_bit import PackedConv2d
from rome_lightning.networks.fast.winograd import OUTPUTS, WinogradConv2d, can_replace

_AT_ONCE = 4
"""Images whose last features, of 15 x 15 pixels, are convolved below each other: enough for a product."""
_EPSILON = 1e-10
"""Added to lengths by the package."""


def feature_extractor(network: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    """``lpips_features`` of a network, faster if it is AlexNet on the CPU.

    Args:
        network: from ``load_lpips``; later changes of its weights may not be seen.
    """
    convolutions = [module for module in cast(Any, network).net.modules() if isinstance(module, nn.Conv2d)]
    is_alexnet = [conv.kernel_size[0] for conv in convolutions] == [11, 5, 3, 3, 3]
    weight = convolutions[0].weight
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and has_kernels(weight)
    if is_alexnet and on_cpu and all(can_replace(conv) for conv in convolutions[2:]):
        return AlexFeatures(network, convolutions)
    return partial(lpips_features, network)


class AlexFeatures:
    """AlexNet's normalized features, channels-last; the last three convolutions by minimal filtering.

    Args:
        network: of the ``lpips`` package.
        convolutions: its five.
    """

    def __init__(self, network: nn.Module, convolutions: list[nn.Conv2d]) -> None:
        layer = cast(Any, network).scaling_layer
        # From [0, 1] to what the network was trained on, in one step.
        self._gain, self._offset = 2 / layer.scale, (-1 - layer.shift) / layer.scale
        self._wide = [
            PackedConv2d(
                conv.weight.detach(),
                cast(Tensor, conv.bias).detach(),
                conv.stride[0],
                int(conv.padding[0]),
                float("inf"),
            )
            for conv in convolutions[:2]
        ]
        self._narrow = [WinogradConv2d(conv) for conv in convolutions[2:]]

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h2 w2"]]:
        """The features that ``lpips`` compares, layer by layer.

        Args:
            image: RGB in [0, 1].
        """
        results: list[list[Tensor]] = [[] for _ in range(len(self._wide) + len(self._narrow))]
        for part in image.split(_AT_ONCE):
            pooled = []
            # One image at a time stays in the processor's cache.
            for one in part.split(1):
                features = one.float().contiguous(memory_format=torch.channels_last)
                features = torch.addcmul(self._offset, features, self._gain)
                for conv, layer in zip(self._wide, results[: len(self._wide)], strict=True):
                    features = conv(features)
                    layer.append(_normalized(features))
                    features = F.max_pool2d(features, 3, 2)
                pooled.append(features)
            for features, layer in zip(self._last_layers(pooled), results[len(self._wide) :], strict=True):
                layer.append(_normalized(features))
        return [torch.cat(layer) for layer in results]

    def _last_layers(self, features: list[Float[Tensor, "1 c h w"]]) -> list[Float[Tensor, "b c2 h w"]]:
        """Three convolutions of up to ``_AT_ONCE`` images with rows of zeros between them."""
        count, (_, channels, height, width) = len(features), features[0].shape
        # Filters are arranged for a number of tiles, so there are always as many.
        rows = height + OUTPUTS - height % OUTPUTS
        images = features[0].new_zeros((_AT_ONCE, rows, width, channels))
        for image, one in zip(images[:count], features, strict=True):
            image[:height] = one[0].permute(1, 2, 0)
        layers = []
        for conv in self._narrow:
            below = conv(images.view(1, _AT_ONCE * rows, width, -1).permute(0, 3, 1, 2)).relu_()
            images = below.permute(0, 2, 3, 1).view(_AT_ONCE, rows, width, -1)
            images[:, height:] = 0
            layers.append(images[:count, :height].permute(0, 3, 1, 2))
        return layers


def _normalized(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Divided by their lengths."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _EPSILON)
