"""Harmonic (positional) encoding of coordinates and normals."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def harmonic_encoding(
    x: Float[Tensor, "*shape"],
    num_frequencies: int = 6,
    variant: Literal["release", "paper"] = "release",
    dim: int = -1,
) -> Float[Tensor, "*encoded"]:
    """Append sines and cosines of growing frequency to a tensor's channels.

    The order along ``dim`` is ``x, sin(f_0 x), cos(f_0 x), sin(f_1 x), ...``, where every entry holds all
    channels of ``x``: ``c`` channels become ``c (1 + 2 num_frequencies)``.

    Args:
        x: coordinates; the unit of ``f_k x`` is radians.
        num_frequencies: sine and cosine pairs.
        variant: ``release``: ``f_k = 2 ** k``, k from 0; ``paper``: ``f_k = k``, k from 1.
        dim: the channels, 1 for ``(b c h w)``, -1 for ``(b n c)``.

    Source: ROME sec. 3.2 (after Mildenhall et al., NeRF, 2020, eq. 4).
    """
    if variant not in ("release", "paper"):
        raise ValueError(f"the variant of a harmonic encoding is release or paper, got {variant!r}")
    if variant == "release":
        frequencies = [float(2**k) for k in range(num_frequencies)]
    else:
        frequencies = [float(k) for k in range(1, num_frequencies + 1)]
    parts = [x]
    for frequency in frequencies:
        angle = frequency * x
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=dim)
