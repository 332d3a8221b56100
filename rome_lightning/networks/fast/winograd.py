"""3x3 convolutions with a quarter of the products, on the CPU and for inference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.acceleration import LANES, has_kernels, kernels
from rome_lightning.acceleration.threads import num_threads, share
from rome_lightning.networks.fast.products import Products

OUTPUTS = 4
"""Side of the tiles that are computed at once, pixels."""
_FEATURES_AT_ONCE = 2**14
"""Tiles times channels that are transformed before their products: few enough for the cache."""
_LEAST_TILES = 64
"""With fewer the matrix product does not reach its speed."""
_FILTER_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_DOUBLED = (0, 1, 3, 4, 5)
"""Frequencies that do not vanish where neighbours are equal in pairs."""


class WinogradConv2d(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1, by minimal filtering of tiles of 4 x 4 outputs.

    36 products do for the 144 of each tile and pair of channels; of an image doubled by nearest upsampling,
    25 do. The result differs from the exact one by rounding, about four times as much as the direct
    convolution's does. It has no gradient.

    Args:
        conv: its filters are copied.
        doubled: convolve the image doubled by nearest upsampling, without making it.

    Source: Lavin & Gray, Fast algorithms for convolutional neural networks, 2016.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, doubled: bool = False) -> None:
        super().__init__()
        if not can_replace(conv):
            raise ValueError(
                f"needs a 3x3 convolution with stride 1 and padding 1 whose channels divide by {LANES}, "
                f"got {conv}"
            )
        self.doubled = doubled
        self.register_buffer("weight", conv.weight.detach().clone())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())
        self._latest_products: Products | None = None

    def forward(
        self, image: Float[Tensor, "b i h w"], addend: Float[Tensor, "b o h2 w2"] | None = None
    ) -> Float[Tensor, "b o h2 w2"]:
        """Convolve.

        Args:
            image: any memory format; channels-last is not copied.
            addend: is added to, in its own memory if that is channels-last.

        Returns:
            The sum or the convolution, channels-last.
        """
        images = image.permute(0, 2, 3, 1).contiguous()
        scale = 2 if self.doubled else 1
        batch, height, width, _ = images.shape
        if addend is None:
            results = images.new_empty((batch, scale * height, scale * width, len(self.weight)))
        else:
            results = addend.permute(0, 2, 3, 1).contiguous()
        self._convolve(images, results, addend is not None)
        return results.permute(0, 3, 1, 2)

    def _convolve(
        self, images: Float[Tensor, "b h w i"], results: Float[Tensor, "b h2 w2 o"], adds: bool
    ) -> None:
        """Some rows of tiles at a time, so that their frequencies stay in the cache; threads share them."""
        code = kernels("networks.fast")
        num_outputs, num_inputs = self.weight.shape[:2]
        num_lines, per_line = (-(-side // OUTPUTS) for side in results.shape[1:3])
        tiles_at_once = max(_LEAST_TILES, _FEATURES_AT_ONCE // max(num_inputs, num_outputs))
        # Parts of the same size, because filters are arranged for one number of tiles.
        most = max(1, tiles_at_once // per_line)
        at_once = max(n for n in range(1, num_lines + 1) if num_lines % n == 0 and n <= most)
        parts = [(image, first) for image in range(len(images)) for first in range(0, num_lines, at_once)]
        products = self._products(at_once * per_line)
        size = (at_once * per_line, products.num_groups, num_inputs)
        free = [images.new_empty(size) for _ in range(min(num_threads(), len(parts)))]

        def convolve(part: tuple[int, int]) -> None:
            image, first = part
            spectrum = free.pop()
            code.to_spectrum(images[image], spectrum, first, at_once, self.doubled)
            code.from_spectrum(products(spectrum), results[image], first, at_once, self.doubled, adds)
            free.append(spectrum)

        share(convolve, parts)

    def _products(self, num_tiles: int) -> Products:
        """The filters' frequencies; those for the latest number of tiles are kept."""
        if self._latest_products is None or self._latest_products.num_rows != num_tiles:
            transform = torch.tensor(_FILTER_TRANSFORM, dtype=torch.float64)
            if self.doubled:
                transform = transform[list(_OF_DOUBLED)]
            # In double precision: the transform of the filters then rounds once.
            spectrum = torch.einsum("au,oiuv,bv->abio", transform, self.weight.double(), transform)
            bias = None
            if self.bias is not None:
                # Frequency 1 along both axes, by which all outputs of a tile grow alike.
                bias = self.bias.new_zeros(len(transform), len(transform), len(self.bias))
                bias[1, 1] = self.bias
                bias = bias.flatten(0, 1)
            self._latest_products = Products(spectrum.flatten(0, 1).float(), bias, num_tiles)
        return self._latest_products


def can_replace(conv: nn.Module) -> bool:
    """Whether ``WinogradConv2d`` computes what a convolution does, here."""
    return (
        isinstance(conv, nn.Conv2d)
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.in_channels % LANES == conv.out_channels % LANES == 0
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
        and has_kernels(conv.weight)
    )
