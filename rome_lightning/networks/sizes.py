"""Checks that a network can halve an image size."""

from __future__ import annotations

from torch import Tensor


def check_divisible(inputs: Tensor, divisor: int) -> None:
    """Refuse images that a network cannot halve as often as it does.

    Args:
        inputs: images, height and width last.
        divisor: of both sides.

    Raises:
        ValueError: a side does not divide; names what to change.
    """
    height, width = inputs.shape[-2:]
    if height % divisor or width % divisor:
        raise ValueError(
            f"image sides must be divisible by {divisor}, got {height}x{width}; choose another size, or "
            "fewer num_levels"
        )
