"""Decoded video frames as upright sRGB with square pixels, on white."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from jaxtyping import UInt8

from rome_lightning.media import colours
from rome_lightning.media.pictures import MAX_PIXELS

_UNTAGGED = (2, 3)
_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}
"""What swscale converts, by the numbers of ITU-T H.273; it takes others for BT.601 without a word."""
_HD = (1280, 576)
"""Width from which, and height above which, untagged pictures are BT.709, as players have it."""
_WIDEST_PIXEL = 10
_TINY = 16


def upright_rgb(
    frame: VideoFrame, pixel_aspect: Fraction | None = None, max_side: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a decoded frame to what a player shows.

    Colours follow the frame's matrix, range, primaries and transfer (BT.709 and BT.601 by size where it says
    nothing), wide gamuts and HDR (HLG, PQ) become sRGB, transparent pixels white; non-square pixels widen or
    narrow the picture, and its display matrix turns or mirrors it.

    Args:
        frame: as decoded.
        pixel_aspect: width over height of a pixel; None for square.
        max_side: longer side of the result in pixels; larger frames are averaged down.

    Raises:
        ValueError: the frame is larger than ``MAX_PIXELS``, or stored in unknown colours.
    """
    width, height = _square_size(frame, pixel_aspect)
    if max_side is not None and max(width, height) > max_side:
        scale = max_side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    space = colours.coded_space(frame.color_primaries, frame.color_trc)
    has_alpha = any(component.is_alpha for component in frame.format.components)
    pixels = frame.to_ndarray(
        format=("rgba64le" if has_alpha else "rgb48le") if space else ("rgba" if has_alpha else "rgb24"),
        width=width,
        height=height,
        src_colorspace=_matrix(frame),
        interpolation=_filter(frame, width, space is not None),
    )
    rgb = pixels[..., :3]
    if space is not None:
        rgb = colours.to_srgb(rgb, *space)
    if has_alpha:
        alpha = pixels[..., 3:].astype(np.float32) / (65535 if space else 255)
        rgb = np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(_displayed(rgb, display_matrix(frame)))


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Signs of a, b, c and d: stored (x, y) is shown at (a x + c y, b x + d y), y downwards.

    Angles between are rounded to a quarter turn.
    """
    # Side data and their frame hold each other, so that frames would lie in memory until the collector comes:
    # a tiny copy has the same and weighs nothing.
    tiny = frame.reformat(width=_TINY, height=_TINY, format="gray", interpolation=Interpolation.POINT)
    side_data: Any = tiny.side_data
    try:
        data = side_data[SideData.DISPLAYMATRIX]
    except KeyError:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def progressive(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """The same frames, whole ones in place of two interlaced fields each (FFmpeg's bwdif)."""
    graph = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        graph = graph or _deinterlacer(frame)
        graph.vpush(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph)


def _deinterlacer(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    # Frames that are not interlaced pass as they are.
    weave = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(weave)
    weave.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _square_size(frame: VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height in square pixels, before turning."""
    aspect = float(pixel_aspect or 1)
    if not 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL:
        raise ValueError(
            f"its pixels are {pixel_aspect} times as wide as high; correct its pixel aspect ratio"
        )
    width = max(1, round(frame.width * aspect))
    if width * frame.height > MAX_PIXELS:
        raise ValueError(f"its frames have {width}x{frame.height} pixels; scale it down")
    return width, frame.height


def _matrix(frame: VideoFrame) -> str | None:
    """Name of the matrix that makes RGB of a frame; None where it holds RGB."""
    if frame.format.is_rgb or frame.format.has_palette:
        return None
    if frame.colorspace in _UNTAGGED or frame.colorspace == 0:
        if frame.color_primaries == 9:
            return "BT2020"
        if frame.color_primaries in (5, 6):
            return "ITU601"
        is_hd = frame.width >= _HD[0] or frame.height > _HD[1]
        return "ITU709" if is_hd or frame.color_primaries == 1 else "ITU601"
    if frame.colorspace not in _MATRICES:
        raise ValueError(
            f"its colour matrix (number {frame.colorspace} of ITU-T H.273) is not supported; convert it with "
            "ffmpeg -vf scale=out_color_matrix=bt709"
        )
    return _MATRICES[frame.colorspace]


def _filter(frame: VideoFrame, width: int, is_deep: bool) -> int:
    """Averages where the picture shrinks, interpolates where it grows; exact where that costs little more."""
    if width == frame.width and not is_deep:
        return int(Interpolation.AREA)
    if width < frame.width and is_deep:
        # With FULL_CHR_H_INT, swscale makes wrong colours of 16 bits unless it interpolates by more than two
        # rows, as bicubic does.
        return int(Interpolation.AREA | Interpolation.ACCURATE_RND)
    kind = Interpolation.AREA if width < frame.width else Interpolation.BICUBIC
    return int(kind | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)


def _displayed(
    rgb: UInt8[np.ndarray, "h w 3"], matrix: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    a, b, c, d = matrix
    if a == 0:
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return rgb[::d, ::a]
