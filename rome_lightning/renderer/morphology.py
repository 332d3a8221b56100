"""Greyscale morphology with square structuring elements: dilation, erosion and opening.

Pixels beyond the border of an image are ignored.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.renderer import opencv


def dilate(image: Float[Tensor, "b c h w"], reach: int) -> Float[Tensor, "b c h w"]:
    """The largest value of each channel within a square around each pixel.

    Where a gradient is needed, a running maximum that doubles its width in each step, along rows, then
    columns. On a CPU, max pooling takes 15 times as long at a reach of 3 pixels and 40 times as long at 6.

    Args:
        image: any values.
        reach: pixels from the centre of the square to its sides; 0 returns the image.
    """
    if reach == 0:
        return image
    if opencv.can_filter(image):
        return opencv.dilated(image, reach)
    image = F.pad(image, (reach, reach, reach, reach), value=-torch.inf)
    for axis in (-1, -2):
        width, wanted = 1, 2 * reach + 1
        while width < wanted:
            step = min(width, wanted - width)
            length = image.shape[axis] - step
            image = torch.maximum(image.narrow(axis, 0, length), image.narrow(axis, step, length))
            width += step
    return image


def erode(image: Float[Tensor, "b c h w"], reach: int) -> Float[Tensor, "b c h w"]:
    """The smallest value of each channel within a square around each pixel; arguments as for ``dilate``."""
    if reach and opencv.can_filter(image):
        return opencv.eroded(image, reach)
    return -dilate(-image, reach)


def opened(image: Float[Tensor, "b c h w"], reach: int) -> Float[Tensor, "b c h w"]:
    """The morphological opening: removes what is brighter than its surroundings but thinner than the square.

    Arguments as for ``dilate``.
    """
    return dilate(erode(image, reach), reach)
