import io

import numpy as np
import torch
from PIL import Image

from rome_lightning.media.image import encode_png, quantize, to_uint8


def test_values_are_rounded_and_clamped():
    values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 2.0])
    assert quantize(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_every_byte_survives():
    levels = torch.arange(256) / 255
    assert torch.equal(quantize(levels), torch.arange(256).to(torch.uint8))


def test_channels_come_last():
    image = torch.rand(2, 3, 4, 5)
    pixels = to_uint8(image)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels.flags.c_contiguous
    assert pixels[1, 2, 3, 0] == round(float(image[1, 0, 2, 3]) * 255)


def test_a_png_holds_the_same_pixels():
    texture = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))
    decoded = np.asarray(Image.open(io.BytesIO(encode_png(texture))))
    assert np.array_equal(decoded, to_uint8(texture))
