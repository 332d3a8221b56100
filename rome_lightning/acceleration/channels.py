"""Cutting channels into groups that kernels carry as one vector."""

from __future__ import annotations

from collections.abc import Iterator

_GROUPS = (8, 4, 3, 2, 1)


_ON_CPU = (10, 5, *_GROUPS)
"""The same for a kernel on the CPU that spends its time on other things than the channels: one pass for what
the shipped model looks up, with its network and without."""


def channel_parts(num_channels: int, few_passes: bool = False) -> Iterator[slice]:
    """Slices of the channels whose lengths are those of vectors that kernels are made for.

    Args:
        num_channels: their number.
        few_passes: whether a pass costs more than the length of its vectors; on a CPU only.
    """
    groups = sorted(_ON_CPU, reverse=True) if few_passes else _GROUPS
    start = 0
    while start < num_channels:
        length = next(group for group in groups if group <= num_channels - start)
        yield slice(start, start + length)
        start += length
