"""Convolutions by products of bytes, on processors with instructions for them (VNNI), for inference.

Filters are rounded to 8 bits per output channel, images to 8 bits of the range that they have, or that is
known; sums are exact. On AVX-512 such a product takes a third to a quarter of the time of one in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.acceleration import warp_status

LEVELS = 255
"""Steps of an image's range."""
_MOST = 127
"""Largest value of a rounded filter."""


class Bytes(NamedTuple):
    """An image of 8 bits: ``scale * (values - zero)``."""

    values: UInt8[Tensor, "1 c h w"]
    """Channels-last."""
    scale: float
    zero: int


def has_byte_products() -> bool:
    """Whether this processor multiplies bytes faster than floats, and torch knows how."""
    # Not public: without it, the networks' libraries run.
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return (
        has_vnni()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qconv2d_pointwise")
        and warp_status() == "ok"
    )


def to_bytes(image: Float[Tensor, "1 c h w"]) -> Bytes:
    """Round an image, channels-last, to the 8 bits of its own range, which contains 0."""
    rows = image.permute(0, 2, 3, 1).contiguous()
    pixels = rows.flatten(0, 2).numpy()
    low, high, _, _ = cv2.minMaxLoc(pixels)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    zero = round(-low / scale)
    # Rounds, and cuts what is beyond 0 and 255: a pass over the memory instead of torch's four.
    values = torch.from_numpy(cv2.convertScaleAbs(pixels, None, 1 / scale, zero))
    return Bytes(values.view(rows.shape).permute(0, 3, 1, 2), scale, zero)


class ByteConv2d(nn.Module):
    """A convolution of bytes without dilation; the result is float32, or bytes of a known range.

    Args:
        weight: of one group, or of as many as there are channels.
        bias: is added.
        stride: along both axes.
        padding: of zeros, on all sides.
        relu: set negative results to 0.
        peak: makes the result bytes of [0, peak]; larger ones become ``peak``. For convolutions with ReLU.
    """

    def __init__(
        self,
        weight: Float[Tensor, "o i kh kw"],
        bias: Float[Tensor, " o"],
        stride: int = 1,
        padding: int = 0,
        relu: bool = False,
        peak: float | None = None,
    ) -> None:
        super().__init__()
        if peak is not None and not relu:
            raise ValueError("only results of a ReLU have a range from 0 on")
        self.geometry = ([stride] * 2, [padding] * 2, [1, 1])
        self.activation = "relu" if relu else "none"
        self.scale = None if peak is None else peak / LEVELS
        self.scales = weight.abs().amax((1, 2, 3)) / _MOST
        self.filters = (weight / self.scales.view(-1, 1, 1, 1)).round().to(torch.int8)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = bias.float().contiguous()
        self._packed: dict[tuple[int, ...], Tensor] = {}

    def forward(self, image: Bytes | Float[Tensor, "1 i h w"]) -> Bytes | Float[Tensor, "1 o h2 w2"]:
        """Convolve; images that are not bytes are rounded first."""
        values, scale, zero = image if isinstance(image, Bytes) else to_bytes(image)
        groups = values.shape[1] // self.filters.shape[1]
        packed = self._filters(values, scale, zero, groups)
        out_scale, dtype = (1.0, torch.float32) if self.scale is None else (self.scale, torch.uint8)
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            values, scale, zero, packed, self.scales, self.zeros, self.bias, *self.geometry, groups,
            out_scale, 0, dtype, self.activation, [], "",
        )  # fmt: skip
        return result if self.scale is None else Bytes(result, self.scale, 0)

    def _filters(self, values: Tensor, scale: float, zero: int, groups: int) -> Tensor:
        """Filters as oneDNN wants them for images of this size."""
        size = tuple(values.shape)
        if size not in self._packed:
            self._packed[size] = torch.ops.onednn.qconv_prepack(
                self.filters, self.scales, scale, zero, *self.geometry, groups, list(size)
            )
        return self._packed[size]


class PackedConv2d(nn.Module):
    """A float32 convolution with filters arranged once and its activation in the same pass, by oneDNN.

    Args:
        weight: of one group, or of as many as there are channels.
        bias: is added.
        stride: along both axes.
        padding: of zeros, on all sides.
        most: largest result of a ReLU; infinity for the plain one, None without.
    """

    def __init__(
        self,
        weight: Float[Tensor, "o i kh kw"],
        bias: Float[Tensor, " o"],
        stride: int = 1,
        padding: int = 0,
        most: float | None = None,
    ) -> None:
        super().__init__()
        self.geometry = ([padding] * 2, [stride] * 2, [1, 1])
        self.activation: tuple[str, list[float]] = ("none", [])
        if most is not None:
            self.activation = ("relu", []) if most == float("inf") else ("hardtanh", [0.0, most])
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = bias.contiguous()
        self._packed: dict[tuple[int, ...], Tensor] = {}

    def forward(self, image: Float[Tensor, "1 i h w"]) -> Float[Tensor, "1 o h2 w2"]:
        """Convolve a channels-last image."""
        size = tuple(image.shape)
        groups = size[1] // self.weight.shape[1]
        if size not in self._packed:
            self._packed[size] = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, groups, list(size)
            )
        kind, numbers = self.activation
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            image, self._packed[size], self.bias, *self.geometry, groups, kind, numbers, ""
        )
        return result


class ByteSum(nn.Module):
    """A convolution of images side by side, as the sum of one of each: no copy, and each has its own range.

    Args:
        weight: of all channels.
        bias: is added once.
        channels: of each image; those of few channels, such as a picture, stay float32.
        stride: along both axes.
        padding: of zeros, on all sides.
    """

    FEWEST = 16
    """Channels from which on bytes are faster."""

    def __init__(
        self,
        weight: Float[Tensor, "o i kh kw"],
        bias: Float[Tensor, " o"],
        channels: tuple[int, ...],
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for index, part in enumerate(weight.split(channels, dim=1)):
            kind = ByteConv2d if part.shape[1] >= self.FEWEST else PackedConv2d
            own_bias = bias if index == 0 else torch.zeros_like(bias)
            self.parts.append(kind(part, own_bias, stride, padding))

    def forward(self, *images: Float[Tensor, "1 i h w"]) -> Float[Tensor, "1 o h2 w2"]:
        """Convolve all and add."""
        first, *others = (part(image) for part, image in zip(self.parts, images, strict=True))
        for other in others:
            first += other
        result: Tensor = first
        return result


def with_leading_zeros(weight: Float[Tensor, "o i 3 3"]) -> Float[Tensor, "o i 4 4"]:
    """A 3x3 filter of stride 2 that starts at the first pixel, for a padding of one pixel on all sides."""
    return F.pad(weight, (1, 0, 1, 0))
