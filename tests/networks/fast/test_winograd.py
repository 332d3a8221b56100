"""Winograd convolutions against direct ones in double precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rome_lightning.acceleration import warp_status
from rome_lightning.networks.fast.winograd import WinogradConv2d, can_replace

pytestmark = [
    pytest.mark.skipif(warp_status() != "ok", reason=f"needs Warp: {warp_status()}"),
    pytest.mark.usefixtures("torch_threads"),
]

ROUNDING = 6e-5
"""Of outputs up to 4. The transforms' entries reach 8 and 5, so that in each direction they may amplify
a rounding error of 2^-24 by 19 x 10, the sums of their rows' magnitudes. If errors add up like random
numbers, both directions together amplify it by the root of the square, 190 x 6e-8 x 4 = 5e-5. Seen with
SSE4.1: 1.7e-5. A wrong filter tap is wrong by 1e-2 and more."""


def conv_of(inputs: int = 32, outputs: int = 48, bias: bool = True, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias, **options).requires_grad_(False)


def exact(conv: nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(image.double(), conv.weight.double(), bias, padding=1)


def image_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# Whole tiles, partial tiles on both sides, fewer pixels than a tile, more rows than are processed at once.
@pytest.mark.parametrize("size", [(8, 12), (9, 14), (3, 2), (1, 1), (70, 33)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_equals_the_direct_convolution(size, channels_last):
    conv, image = conv_of(), image_of(2, 32, *size)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    found = WinogradConv2d(conv)(image)
    torch.testing.assert_close(found.double(), exact(conv, image), atol=ROUNDING, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2), (33, 20)])
def test_doubled_equals_the_convolution_of_the_upsampled_image(size):
    conv, image = conv_of(bias=False), image_of(2, 32, *size)
    found = WinogradConv2d(conv, doubled=True)(image)
    upsampled = F.interpolate(image, scale_factor=2, mode="nearest")
    torch.testing.assert_close(found.double(), exact(conv, upsampled), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("doubled", [False, True])
def test_threads_change_nothing(doubled, torch_threads):
    """The sums do not depend on which thread processes a row of tiles."""
    conv, image = conv_of(), image_of(3, 32, 70, 33)
    found = WinogradConv2d(conv, doubled)(image)
    torch.set_num_threads(1)
    assert torch.equal(found, WinogradConv2d(conv, doubled)(image))


def test_sizes_may_change():
    conv = conv_of()
    fast = WinogradConv2d(conv)
    for size in ((8, 12), (40, 12), (8, 12), (5, 3)):
        image = image_of(1, 32, *size)
        torch.testing.assert_close(fast(image).double(), exact(conv, image), atol=ROUNDING, rtol=0)


def test_adds_to_what_it_is_given():
    conv, image = conv_of(), image_of(1, 32, 9, 9)
    start = image_of(1, 48, 9, 9).contiguous(memory_format=torch.channels_last)
    expected = start.double() + exact(conv, image)
    found = WinogradConv2d(conv)(image, start)
    torch.testing.assert_close(found.double(), expected, atol=ROUNDING, rtol=0)
    assert found.data_ptr() == start.data_ptr()
    rows_first = image_of(1, 48, 9, 9)
    expected = rows_first.double() + exact(conv, image)
    torch.testing.assert_close(
        WinogradConv2d(conv)(image, rows_first).double(), expected, atol=ROUNDING, rtol=0
    )


@pytest.mark.parametrize(
    "conv",
    [
        conv_of(24, 32),
        conv_of(32, 20),
        conv_of(groups=2),
        conv_of(stride=2),
        conv_of(dilation=2),
        conv_of(padding_mode="reflect"),
        nn.Conv2d(32, 32, 1),
        conv_of().double(),
    ],
)
def test_other_convolutions_are_refused(conv):
    assert not can_replace(conv)
    with pytest.raises(ValueError, match="needs a 3x3 convolution"):
        WinogradConv2d(conv)
