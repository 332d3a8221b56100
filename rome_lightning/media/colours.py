"""Convert other colour spaces and high dynamic range to sRGB, the space of all images after reading."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

REFERENCE_WHITE_NITS = 203.0
"""Luminance of a white sheet in HDR video, which becomes 255; brighter light is clipped. BT.2408, table 1."""
_HLG_PEAK_NITS, _HLG_GAMMA = 1000.0, 1.2
_LEVELS = 65536

Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""CIE 1931 x and y of red, green, blue and white."""
_D65 = (0.3127, 0.3290)
BT709: Chromaticities = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
BT2020: Chromaticities = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)
DISPLAY_P3: Chromaticities = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)
DCI_P3: Chromaticities = (*DISPLAY_P3[:3], (0.314, 0.351))
ADOBE_RGB: Chromaticities = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), _D65)
ADOBE_GAMMA = 563 / 256
Space = tuple[Chromaticities, str | float]
"""Primaries and transfer, as ``to_srgb`` takes them."""
_CODED_PRIMARIES: dict[int, Chromaticities] = {9: BT2020, 11: DCI_P3, 12: DISPLAY_P3}
_CODED_TRANSFERS: dict[int, str | float] = {8: 1.0, 16: "pq", 18: "hlg"}


def coded_space(primaries: int, transfer: int) -> Space | None:
    """The space that the numbers of ITU-T H.273 name; None where pixels can be taken for sRGB as they are.

    The primaries of standard definition differ from those of BT.709 by less than lamps and cameras do, and
    its curve is that of screens.
    """
    if primaries not in _CODED_PRIMARIES and transfer not in _CODED_TRANSFERS:
        return None
    return _CODED_PRIMARIES.get(primaries, BT709), _CODED_TRANSFERS.get(transfer, "srgb")


def to_srgb(
    pixels: UInt16[np.ndarray, "h w 3"], primaries: Chromaticities, transfer: str | float
) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of another space as sRGB.

    Args:
        pixels: code values, 65535 is the top.
        primaries: of the pixels' space; what BT.709 cannot show is clipped.
        transfer: ``srgb``, ``pq`` or ``hlg`` (ITU-R BT.2100), or the exponent that makes code values light.
    """
    light = np.take(_decoding(transfer), pixels)
    if transfer == "hlg":
        # The system's gamma works on luminance, so that it keeps hues; BT.2100, table 5.
        luminance = light @ _luminance(primaries)
        light *= luminance[..., None] ** np.float32(_HLG_GAMMA - 1)
        light *= np.float32(_HLG_PEAK_NITS / REFERENCE_WHITE_NITS)
    light = light @ _matrix(primaries).T
    codes = np.rint(light.clip(0, 1) * np.float32(_LEVELS - 1)).astype(np.uint16)
    return np.take(_srgb_encoding(), codes)


@lru_cache(maxsize=8)
def _decoding(transfer: str | float) -> Float32[np.ndarray, " levels"]:
    """Linear light of each code value; 1 is white, for HLG the light of the scene."""
    code = np.linspace(0, 1, _LEVELS)
    if transfer == "pq":
        root = code ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        light *= 10000 / REFERENCE_WHITE_NITS
    elif transfer == "hlg":
        bright = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(code <= 0.5, code**2 / 3, bright)
    elif transfer == "srgb":
        light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    else:
        light = code ** float(transfer)
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _srgb_encoding() -> UInt8[np.ndarray, " levels"]:
    light = np.linspace(0, 1, _LEVELS)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * code).astype(np.uint8)


def _to_xyz(primaries: Chromaticities) -> Float64[np.ndarray, "3 3"]:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


@lru_cache(maxsize=8)
def _luminance(primaries: Chromaticities) -> Float32[np.ndarray, 3]:
    return _to_xyz(primaries)[1].astype(np.float32)


@lru_cache(maxsize=8)
def _matrix(primaries: Chromaticities) -> Float32[np.ndarray, "3 3"]:
    """Linear RGB to linear BT.709; white stays white (Bradford)."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    source, target = _to_xyz(primaries), _to_xyz(BT709)
    gain = (bradford @ target.sum(1)) / (bradford @ source.sum(1))
    adapted = np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ source
    return np.linalg.solve(target, adapted).astype(np.float32)
