"""Textures as image files."""

from __future__ import annotations

import io

from jaxtyping import Float
from PIL import Image
from torch import Tensor


def encode_png(texture: Float[Tensor, "3 h w"]) -> bytes:
    """A PNG file of an RGB texture in [0, 1]; values outside are clamped."""
    pixels = texture.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().contiguous()
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG", optimize=True)
    return file.getvalue()
