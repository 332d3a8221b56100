"""Image metadata of files, against formulas and another route to the same pixels."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rome_lightning.media.video import probe, read_video, stream_video, write_video

HEIGHT, WIDTH = 64, 96
_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""BT.709 to BT.2020, of BT.2087."""


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(float)
    return np.stack([40 + 150 * x / width, 40 + 150 * y / height, 200 - 100 * x / width], -1).astype(np.uint8)


def encode(path: Path, frames: list[av.VideoFrame], codec: str = "libx264", **tags: object) -> Path:
    """A video from FFmpeg's own encoder, with tags that our writer does not write."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=tags.pop("options", {"crf": "5"}))
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = frames[0].format.name
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def yuv(rgb: np.ndarray, matrix: str | None = None, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(rgb).reformat(format=pix_fmt, dst_colorspace=matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        *((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)),
        *((0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)),
    ],
)
def test_display_matrices(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write_video(tmp_path / "stored.mp4", [picture()] * 2, 25.0)
    stored = read_video(path).frames[0]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[start : start + 36] = struct.pack(">9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    shown = read_video(path).frames[0]
    # ISO 14496-12, 8.3.2: stored (x, y) is shown at (a x + c y, b x + d y), y downwards, up to a shift.
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    assert np.array_equal(shown[shown_y - shown_y.min(), shown_x - shown_x.min()], stored)
    assert np.array_equal(next(stream_video(path))[1], shown)
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    # The order in the probe is a mirror, then a rotation.
    turned = np.rot90(stored[:, ::-1] if info.mirrored else stored, info.rotation // 90)
    assert np.array_equal(turned, shown)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("aspect", "width"), [(Fraction(2, 1), 192), (Fraction(8, 9), 85)])
def test_pixels_become_square(tmp_path: Path, suffix: str, aspect: Fraction, width: int) -> None:
    path = tmp_path / f"wide.{suffix}"
    encode(path, [yuv(picture())] * 2, sample_aspect_ratio=aspect)
    frames = read_video(path).frames
    assert frames.shape[1:3] == (HEIGHT, width)
    assert (probe(path).width, probe(path).height) == (width, HEIGHT)
    assert next(stream_video(path))[1].shape == frames.shape[1:]
    assert np.abs(frames[0].mean((0, 1)) - picture().mean((0, 1))).max() < 2
    assert read_video(path, max_side=48).frames.shape[1:3] == (round(HEIGHT * 48 / width), 48)


def hdr(rgb: np.ndarray, transfer: str) -> np.ndarray:
    """SDR with its white at 203 nits (BT.2408) as code values of BT.2100, by the formulas of BT.2100."""
    x = rgb / 255
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) @ _BT2020.T
    if transfer == "pq":
        y = (light * 203 / 10000).clip(0, 1) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    display = light * 0.203
    scene = display * ((display @ [0.2627, 0.6780, 0.0593]).clip(1e-6) ** (1 / 1.2 - 1))[..., None]
    root = np.sqrt(3 * scene.clip(0))
    log = 0.17883277 * np.log((12 * scene - 0.28466892).clip(1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, root, log)


def ten_bits(code: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    """Code values in [0, 1] by the matrix of BT.2020, limited range, chroma averaged to the format's."""
    kr, kb = 0.2627, 0.0593
    y = code @ [kr, 1 - kr - kb, kb]
    chroma = [(code[..., 2] - y) / (2 * (1 - kb)), (code[..., 0] - y) / (2 * (1 - kr))]
    frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    for plane, values in zip(frame.planes, [64 + 876 * y, *(512 + 896 * c for c in chroma)], strict=True):
        h, w = plane.height, plane.width
        values = values.reshape(h, HEIGHT // h, w, WIDTH // w).mean((1, 3))
        rows = np.zeros((h, plane.line_size // 2), np.uint16)
        rows[:, :w] = values.round()
        plane.update(rows.tobytes())
    return frame


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p10le"])
@pytest.mark.parametrize(("transfer", "number"), [("pq", 16), ("hlg", 18)])
def test_high_dynamic_range_becomes_srgb(tmp_path: Path, transfer: str, number: int, pix_fmt: str) -> None:
    path = tmp_path / "hdr.mkv"
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": number, "color_range": 1}
    encode(path, [ten_bits(hdr(picture(), transfer), pix_fmt)] * 2, "ffv1", options={}, **tags)
    error = read_video(path).frames[0].astype(float) - picture()
    assert np.abs(error).mean() < 2
    assert np.abs(error.mean((0, 1))).max() < 1.5
    half = picture().reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3))
    smaller = read_video(path, max_side=WIDTH // 2).frames[0] - half
    assert np.abs(smaller).mean() < 2
    assert np.abs(smaller.mean((0, 1))).max() < 1.5


def test_wide_gamut_becomes_srgb(tmp_path: Path) -> None:
    """Display P3 of a phone: its pure green is out of reach, its grey the same grey."""
    path = tmp_path / "p3.mkv"
    patches = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    patches[:, :48], patches[:, 48:] = 120, (234, 51, 35)
    tags = {"colorspace": 1, "color_primaries": 12, "color_trc": 1, "color_range": 1}
    encode(path, [yuv(patches, "ITU709", "yuv444p")] * 2, "ffv1", options={}, **tags)
    shown = read_video(path).frames[0].astype(int)
    assert np.abs(shown[:, :46] - 120).max() <= 2
    # sRGB (255, 0, 0) is P3 (234, 51, 35), of CSS Color 4.
    assert np.abs(shown[:, 52:] - (255, 0, 0)).max() <= 6


def test_transparent_video_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    rgba[16:48, 16:80] = (200, 30, 60, 255)
    vp9 = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")
    paths = [
        encode(tmp_path / "a.webm", [vp9] * 2, "libvpx-vp9", options={}),
        encode(tmp_path / "a.mov", [av.VideoFrame.from_ndarray(rgba, format="rgba")] * 2, "png", options={}),
    ]
    for path in paths:
        for frame in (read_video(path).frames[0], next(stream_video(path))[1]):
            assert frame[:8].min() >= 250, path
            assert np.abs(frame[24:40, 24:72].mean((0, 1)) - (200, 30, 60)).max() < 6


def test_interlaced_frames_have_no_combs(tmp_path: Path) -> None:
    """A bar that moves 8 pixels per field; its edge must agree in even and odd rows."""

    def bar(step: int) -> np.ndarray:
        field = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        field[:, 8 * step + 4 : 8 * step + 28] = 200
        return field

    frames = []
    for index in range(0, 8, 2):
        both = bar(index)
        both[1::2] = bar(index + 1)[1::2]
        frames.append(yuv(both))
    path = tmp_path / "fields.mpg"
    options = {"flags": "+ildct+ilme", "top": "1", "qscale": "1"}
    encode(path, frames, "mpeg2video", options=options)
    video = read_video(path)
    assert len(video) == 4
    assert video.timestamps == pytest.approx(np.arange(4) / 25, abs=1e-3)
    inner = video.frames[1:3].astype(float)
    combs = np.abs(inner[:, 1:-1] - (inner[:, :-2] + inner[:, 2:]) / 2).mean()
    woven = np.stack([frame.to_ndarray(format="rgb24") for frame in frames[1:3]]).astype(float)
    assert np.abs(woven[:, 1:-1] - (woven[:, :-2] + woven[:, 2:]) / 2).mean() > 20
    assert combs < 1


@pytest.mark.parametrize(("size", "matrix"), [((1280, 536), "ITU709"), ((720, 576), "ITU601")])
def test_untagged_matrices_follow_the_size(tmp_path: Path, size: tuple[int, int], matrix: str) -> None:
    rgb = np.full((size[1], size[0], 3), (200, 40, 60), np.uint8)
    frame = yuv(rgb, matrix)
    frame.colorspace = 2
    path = encode(tmp_path / "untagged.mp4", [frame])
    assert np.abs(read_video(path).frames.mean((0, 1, 2)) - (200, 40, 60)).max() <= 3


def test_other_matrices_are_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "ycgco.mkv", [yuv(picture())], "ffv1", options={}, colorspace=8)
    with pytest.raises(ValueError, match=r"ycgco\.mkv: its colour matrix \(number 8"):
        read_video(path)
