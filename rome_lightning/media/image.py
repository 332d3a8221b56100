"""Images as bytes and as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rome_lightning.media.atomic import atomic_file, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quantize(values: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Values in [0, 1] as bytes, rounded to the nearest; those outside are clamped."""
    return values.detach().clamp(0, 1).mul_(255).round_().to(torch.uint8)


def to_uint8(image: Float[Tensor, "*b c h w"]) -> UInt8[np.ndarray, "*b h w c"]:
    """Images in [0, 1] as image libraries expect them: bytes, channels last, on the CPU.

    Example:
        >>> to_uint8(torch.full((3, 1, 1), 0.5)).tolist()
        [[[128, 128, 128]]]
    """
    return quantize(image).movedim(-3, -1).contiguous().cpu().numpy()


def write_png(path: Path, pixels: UInt8[np.ndarray, "h w c"], compression: int = 6) -> None:
    """Write a PNG file atomically.

    Args:
        path: of the file; its folder is made.
        pixels: RGB or RGBA.
        compression: 0 to 9; lower is faster.

    Raises:
        OSError: it cannot be written.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=compression)
    write_atomic(path, file.getvalue())


def write_figure(path: Path, figure: Figure, dpi: int = 100) -> None:
    """Write a figure of Matplotlib, whole or not at all, in the format of the file's ending.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=dpi)


def encode_png(texture: Float[Tensor, "3 h w"]) -> bytes:
    """A PNG file of an RGB texture in [0, 1]; values outside are clamped."""
    file = io.BytesIO()
    # The highest compression takes four times as long for 2 % of a photograph's bytes.
    Image.fromarray(to_uint8(texture)).save(file, format="PNG", compress_level=6)
    return file.getvalue()


def encode_jpeg(texture: Float[Tensor, "3 h w"], quality: int = 92) -> bytes:
    """A JPEG file of an RGB texture in [0, 1]; values outside are clamped.

    Args:
        texture: what to encode.
        quality: 1 to 100, of libjpeg.
    """
    file = io.BytesIO()
    Image.fromarray(to_uint8(texture)).save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()


def encode_webp(texture: Float[Tensor, "3 h w"], quality: int = 90) -> bytes:
    """A WebP file of an RGB texture in [0, 1]; values outside are clamped.

    Args:
        texture: what to encode.
        quality: 1 to 100, of libwebp.
    """
    file = io.BytesIO()
    Image.fromarray(to_uint8(texture)).save(file, format="WEBP", quality=quality, method=6)
    return file.getvalue()
