"""The faster of two ways to compute a convolution, on this processor."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.networks.fast.winograd import WinogradConv2d

_RUNS = 3
"""Measured runs of each way; the shortest counts."""
_LEAST_GAIN = 0.95
"""Share of the direct way's time below which the other is taken: for less, fewer rounding errors count."""
_found: dict[tuple[object, ...], bool] = {}
"""Whether minimal filtering is faster, by channels, size and threads: measured once per process, so that
equal layers compute the same."""


class ChosenConv2d(nn.Module):
    """A convolution of so few channels that minimal filtering pays on some processors only.

    The first image of each size is convolved some more times to find out.

    Args:
        direct: the convolution as it is.
        minimal: the same by minimal filtering.
    """

    def __init__(self, direct: nn.Module, minimal: WinogradConv2d) -> None:
        super().__init__()
        self.direct, self.minimal = direct, minimal

    def forward(
        self, image: Float[Tensor, "b i h w"], addend: Float[Tensor, "b o h2 w2"] | None = None
    ) -> Float[Tensor, "b o h2 w2"]:
        """Convolve; arguments and result as for ``WinogradConv2d``."""
        if self._takes_minimal(image):
            result: Tensor = self.minimal(image, addend)
            return result
        result = self.direct(image)
        return result if addend is None else addend.add_(result)

    def _takes_minimal(self, image: Tensor) -> bool:
        minimal = self.minimal
        key = (*minimal.weight.shape[:2], minimal.doubled, *image.shape, torch.get_num_threads())
        if key not in _found:
            direct, other = _shortest_s([self.direct, minimal], image)
            _found[key] = other < _LEAST_GAIN * direct
        return _found[key]


def _shortest_s(ways: list[nn.Module], image: Tensor) -> list[float]:
    """The shortest time of each way, taken in turns so that other programs disturb all alike."""
    shortest = [float("inf")] * len(ways)
    # The first run arranges filters.
    for run in range(_RUNS + 1):
        for index, way in enumerate(ways):
            start = time.perf_counter()
            way(image)
            if run:
                shortest[index] = min(shortest[index], time.perf_counter() - start)
    return shortest
