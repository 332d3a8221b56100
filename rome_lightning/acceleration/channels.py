"""Cutting channels into groups that kernels carry as one vector."""

from __future__ import annotations

from collections.abc import Iterator

_GROUPS = (8, 4, 3, 2, 1)


def channel_parts(num_channels: int) -> Iterator[slice]:
    """Slices of the channels whose lengths are those of vectors that kernels are made for."""
    start = 0
    while start < num_channels:
        length = next(group for group in _GROUPS if group <= num_channels - start)
        yield slice(start, start + length)
        start += length
