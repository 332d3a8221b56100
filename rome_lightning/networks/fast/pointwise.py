"""1x1 convolutions of large features without large intermediate results, on the CPU and for inference.

Memory of 32 MiB and more is new from the system every time, which clears it: for features of that size this
costs more than the products do.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.acceleration import LANES, has_kernels, kernels
from rome_lightning.acceleration.threads import num_threads, share

_LARGE = 32 * 2**20
"""Bytes from which on the C library asks the system for memory every time."""
_AT_ONCE = 2**18
"""Numbers of features between normalization and product, which stay in the processor's cache."""


class NormalizedPointwise(nn.Module):
    """GroupNorm, ReLU and a 1x1 convolution; large features pass some rows at a time.

    Args:
        norm: normalization of the input.
        conv: what follows the ReLU.
    """

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv

    def forward(self, features: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Normalize and convolve."""
        if not _is_large(features):
            return self.conv(F.relu_(self.norm(features)))
        images = features.permute(0, 2, 3, 1)
        batch, height, width, channels = images.shape
        scale, shift = self._affine(images)
        filters = self.conv.weight.flatten(1).T
        results = images.new_empty((batch, height, width, filters.shape[1]))
        num_rows = max(1, _AT_ONCE // (width * channels))
        parts = [(image, first) for image in range(batch) for first in range(0, height, num_rows)]
        free = [images.new_empty((num_rows, width, channels)) for _ in range(num_threads())]

        def normalize_and_convolve(part: tuple[int, int]) -> None:
            image, first = part
            rows = images[image, first : first + num_rows]
            buffer = free.pop()
            normalized = buffer[: len(rows)]
            kernels("networks.fast").scaled_relu(rows, scale[image], shift[image], normalized)
            result = results[image, first : first + num_rows]
            torch.mm(normalized.flatten(0, 1), filters, out=result.flatten(0, 1))
            free.append(buffer)

        share(normalize_and_convolve, parts)
        if self.conv.bias is not None:
            results += self.conv.bias
        return results.permute(0, 3, 1, 2)

    def _affine(self, images: Float[Tensor, "b h w c"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """The normalization as a factor and a summand of each channel, from moments in double precision."""
        sums, squares = (
            moment.double().sum(1).unflatten(1, (self.norm.num_groups, -1))
            for moment in kernels("networks.fast").moments(images)
        )
        count = sums.shape[2] * images.shape[1] * images.shape[2]
        mean = sums.sum(2, keepdim=True) / count
        variance = squares.sum(2, keepdim=True) / count - mean.square()
        factor = (variance.clamp_min(0) + self.norm.eps).rsqrt()
        scale = factor * self.norm.weight.double().view_as(sums[0])
        shift = self.norm.bias.double().view_as(sums[0]) - mean * scale
        return scale.flatten(1).float(), shift.flatten(1).float()


class AddedPointwise(nn.Module):
    """A 1x1 convolution without bias whose result is added to other features, in their memory."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        if conv.bias is not None:
            raise ValueError("a convolution that is added must not have a bias")
        self.conv = conv

    def forward(
        self, features: Float[Tensor, "b i h w"], total: Float[Tensor, "b o h w"]
    ) -> Float[Tensor, "b o h w"]:
        """Convolve and add; ``total`` is changed."""
        if not _is_large(total) or not _is_channels_last(features):
            return total.add_(self.conv(features))
        pixels, sums = (tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in (features, total))
        torch.addmm(sums, pixels, self.conv.weight.flatten(1).T, out=sums)
        return total


def _is_large(features: Tensor) -> bool:
    """Whether features are so large that their memory counts, and in a form that the kernels take."""
    return (
        features.device.type == "cpu"
        and features.dtype == torch.float32
        and features.numel() * features.element_size() >= _LARGE
        and features.shape[1] % LANES == 0
        and _is_channels_last(features)
        and has_kernels(features)
    )


def _is_channels_last(features: Tensor) -> bool:
    return features.permute(0, 2, 3, 1).is_contiguous()
