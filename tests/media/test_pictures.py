"""Photographs in every storage format become the same upright sRGB."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from rome_lightning.media.pictures import decode_image, read_image

_D65, _D50 = np.array([0.95046, 1, 1.08906]), np.array([0.9642, 1, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SWAPPED = ((0.15, 0.06), (0.30, 0.60), (0.64, 0.33))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(float)
    return np.stack([60 + 130 * x / width, 50 + 120 * y / height, 160 - 90 * x / width], -1).astype(np.uint8)


def matrix_profile(primaries: tuple[tuple[float, float], ...], curve: tuple[float, ...]) -> bytes:
    """An ICC profile of three primaries and one curve, written by hand (ICC.1:2010, 9.2)."""

    def fixed(values: object) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in np.ravel(values))

    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    to_d50 = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _D65)) @ _BRADFORD
    columns = to_d50 @ (xyz * np.linalg.solve(xyz, _D65))
    kind = 0 if len(curve) == 1 else 3
    trc = b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(curve)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = [
        (b"desc", text),
        (b"cprt", b"text" + bytes(4) + b"none\0"),
        (b"wtpt", b"XYZ " + bytes(4) + fixed(_D50)),
    ]
    tags += [(f"{c}XYZ".encode(), b"XYZ " + bytes(4) + fixed(columns[:, i])) for i, c in enumerate("rgb")]
    tags += [(f"{c}TRC".encode(), trc) for c in "rgb"]
    place, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def through(icc: bytes) -> Image.Image:
    """The scene in the colours of a profile."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(Image.fromarray(scene()), ImageCms.createProfile("sRGB"), profile)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "most"), [("PNG", 1), ("TIFF", 1), ("JPEG", 4), ("WEBP", 4)])
@pytest.mark.parametrize(
    ("primaries", "curve"), [(P3, SRGB_CURVE), (ADOBE, (563 / 256,)), (SWAPPED, SRGB_CURVE)]
)
def test_colour_profiles_are_applied(
    kind: str, most: float, primaries: tuple[tuple[float, float], ...], curve: tuple[float, ...]
) -> None:
    icc = matrix_profile(primaries, curve)
    lossy = {"quality": 98} if most > 1 else {}
    image = through(icc)
    assert np.abs(np.asarray(image).astype(int) - scene()).mean() > 1.5
    read = decode_image(stored(image, kind, icc_profile=icc, **lossy), "photo").astype(int)
    assert np.abs(read - scene()).mean() < most


def test_profiles_meet_transparency_and_palettes() -> None:
    icc = matrix_profile(SWAPPED, SRGB_CURVE)
    image = through(icc)
    image.putalpha(Image.fromarray(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None].repeat(48, 0)))
    read = decode_image(stored(image, "PNG", icc_profile=icc), "photo").astype(int)
    assert np.abs(read[:, :32] - scene()[:, :32]).max() <= 1
    assert read[:, 32:].min() == 255
    palette = through(icc).quantize(128)
    read = decode_image(stored(palette, "PNG", icc_profile=icc), "photo").astype(int)
    assert np.abs(read - scene()).mean() < 8


def test_a_profile_that_cannot_be_used_is_said() -> None:
    data = stored(Image.fromarray(scene()), "PNG", icc_profile=b"no profile" * 20)
    with pytest.warns(UserWarning, match=r"selfie\.png: its colour profile cannot be used"):
        assert np.array_equal(decode_image(data, "selfie.png"), scene())


def test_chunks_of_png_are_applied() -> None:
    """Gamma and chromaticities without a profile, written by hand."""

    def chunk(name: bytes, *values: float) -> tuple[bytes, bytes]:
        return name, struct.pack(f">{len(values)}I", *(round(value * 1e5) for value in values))

    def with_chunks(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
        info = PngImagePlugin.PngInfo()
        for chunk in chunks:
            info.add(*chunk)
        return stored(image, "PNG", pnginfo=info)

    linear = Image.fromarray(np.full((4, 4, 3), 55, np.uint8))
    # 55 / 255 of the light is sRGB 128.
    assert np.all(np.abs(decode_image(with_chunks(linear, chunk(b"gAMA", 1.0)), "x").astype(int) - 128) <= 1)
    same = with_chunks(Image.fromarray(scene()), chunk(b"gAMA", 0.45455))
    assert np.array_equal(decode_image(same, "x"), scene())
    wide = chunk(b"cHRM", 0.3127, 0.3290, *np.ravel(P3))
    data = with_chunks(through(matrix_profile(P3, SRGB_CURVE)), chunk(b"gAMA", 0.45455), wide)
    assert np.abs(decode_image(data, "x").astype(int) - scene()).mean() < 1


def with_code_points(
    primaries: int, transfer: int, content: np.ndarray, *others: bytes, full_range: int = 1
) -> bytes:
    """PNG with a cICP chunk (PNG, third edition, 11.3.2.6) before other chunks."""
    data = stored(Image.fromarray(content), "PNG")
    chunks = b""
    for chunk in (b"cICP" + bytes([primaries, transfer, 0, full_range]), *others):
        chunks += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + chunks + data[33:]


def test_code_points_of_png_win_over_all_else() -> None:
    linear = b"gAMA" + struct.pack(">I", 100_000)
    profile = b"iCCP" + b"x\0\0" + zlib.compress(matrix_profile(SWAPPED, SRGB_CURVE))
    assert np.array_equal(decode_image(with_code_points(1, 13, scene(), linear), "x"), scene())
    wide = np.asarray(through(matrix_profile(P3, SRGB_CURVE)))
    read = decode_image(with_code_points(12, 13, wide, profile), "x")
    assert np.abs(read.astype(int) - scene()).mean() < 1
    # SDR white of HDR is 203 nits (BT.2408), which PQ codes as 58 % (BT.2100, table 4).
    white = np.full((4, 4, 3), round(0.5807 * 255), np.uint8)
    assert decode_image(with_code_points(9, 16, white), "x").min() >= 253
    with pytest.raises(ValueError, match=r"x as an image: its cICP chunk .* full-range RGB"):
        decode_image(with_code_points(9, 16, white, full_range=0), "x")


def test_a_profile_of_other_channels_is_said() -> None:
    """CMYK with a profile of RGB, as some programs save it."""
    image = Image.fromarray(scene()).convert("CMYK")
    data = stored(image, "TIFF", icc_profile=matrix_profile(P3, SRGB_CURVE))
    with pytest.warns(UserWarning, match="its colour profile cannot be used"):
        assert np.abs(decode_image(data, "x").astype(int) - scene()).mean() < 1


def test_cameras_say_adobe_rgb_in_exif() -> None:
    image = through(matrix_profile(ADOBE, (563 / 256,)))
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    read = decode_image(stored(image, "JPEG", quality=98, exif=exif), "photo").astype(int)
    assert np.abs(read - scene()).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation(kind: str, orientation: int) -> None:
    # The inverse of each orientation in the EXIF standard.
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]
    picture = Image.fromarray(scene())
    turned = picture if undo is None else picture.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = decode_image(stored(turned, kind, exif=exif), "photo").astype(int)
    assert read.shape == scene().shape
    assert np.abs(read - scene()).mean() < 6


def test_deep_pictures_turn_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = scene()[..., 0]
    deep = Image.fromarray(np.rot90(grey).astype(np.uint16) * 257)
    assert np.abs(decode_image(stored(deep, "TIFF", exif=exif), "x")[..., 0].astype(int) - grey).max() <= 1


def test_broken_exif_leaves_the_picture() -> None:
    data = stored(Image.fromarray(scene()), "JPEG", quality=98, exif=b"Exif\0\0" + b"\xff" * 40)
    assert decode_image(data, "x").shape == scene().shape


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        tiff((scene() / 255).astype(np.float32), photometric="rgb"),
        tiff((scene() / 255).astype(np.float64), photometric="rgb"),
        tiff(scene().astype(np.float32), photometric="rgb"),
        tiff(scene().astype(np.uint16) * 257, photometric="rgb"),
        tiff(scene().astype(np.uint32) * 0x01010101, photometric="rgb"),
        tiff(
            np.moveaxis(scene() / 255, -1, 0).astype(np.float32), photometric="rgb", planarconfig="separate"
        ),
    ],
    ids=["float", "double", "float 255", "16 bits", "32 bits", "planes"],
)
def test_tiff_of_every_sample_type(data: bytes) -> None:
    assert np.abs(decode_image(data, "x").astype(int) - scene()).max() <= 1


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_depth_is_a_matter_of_type_not_of_content(level: int) -> None:
    """A dark 16-bit image stays dark."""
    deep = np.full((4, 4), level * 257, np.uint16)
    for data in (stored(Image.fromarray(deep), "PNG"), stored(Image.fromarray(deep), "TIFF"), tiff(deep)):
        assert decode_image(data, "x").tolist() == np.full((4, 4, 3), level).tolist()
    light = np.full((4, 4), level / 255, np.float32)
    assert np.all(decode_image(stored(Image.fromarray(light), "TIFF"), "x") == level)


def test_dark_sixteen_bits() -> None:
    dark = Image.fromarray(np.full((4, 4), 200, np.uint16))
    assert np.all(decode_image(stored(dark, "PNG"), "x") == round(200 / 257))


def test_twelve_bits() -> None:
    """Packed by hand: two samples in three bytes."""
    grey = scene()[..., 0].astype(np.uint32) * 4095 // 255
    first, second = grey[:, ::2], grey[:, 1::2]
    packed = (
        np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    )
    height, width = grey.shape
    entries = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries += [(279, len(packed))]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + ifd + bytes(4)
    assert np.abs(decode_image(data, "x")[..., 0].astype(int) - scene()[..., 0]).max() <= 1


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decode_image(stored(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "x.tif")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
        (b"FUJIFILMCCD-RAW " + bytes(100), "raw file"),
        (b"\0\0\0\x18ftypcrx " + bytes(100), "raw file"),
        (tiff(scene(), subfiletype=1), "raw file"),
        (tiff(scene(), extratags=[(50706, "B", 4, b"\1\4\0\0", True)]), "raw file"),
        (b"%PDF-1.7" + bytes(100), "page or drawing"),
        (b"", "empty"),
        (b"\0" * 100, "format is unknown"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot read photo\.x as an image: .*{message}"):
        decode_image(data, "photo.x")


def test_heic() -> None:
    """As written by a phone: rotated, in its own colour space, or with transparency."""
    heif = pytest.importorskip("pillow_heif")

    def written(image: Image.Image, **options: object) -> bytes:
        file = io.BytesIO()
        heif.from_pillow(image).save(file, quality=95, chroma=444, **options)
        return file.getvalue()

    def error(data: bytes) -> float:
        return float(np.abs(decode_image(data, "x").astype(int) - scene()).mean())

    assert error(written(Image.fromarray(scene()))) < 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(scene()).transpose(Image.Transpose.ROTATE_90)
    assert error(written(turned, exif=exif.tobytes())) < 4
    icc = matrix_profile(P3, SRGB_CURVE)
    wide = through(icc)
    wide.info["icc_profile"] = icc
    assert error(written(wide)) < 4
    clear = np.dstack([scene(), np.zeros(scene().shape[:2], np.uint8)])
    assert decode_image(written(Image.fromarray(clear)), "x").min() > 250


def test_heic_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(
        ValueError, match=r"HEIC, which needs pillow-heif: pip install 'rome-lightning\[heic\]'"
    ):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(100), "photo.heic")


def test_picture_bombs_are_refused() -> None:
    data = bytearray(stored(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(ValueError, match=r"bomb\.png as an image: .*scale it down"):
        decode_image(bytes(data), "bomb.png")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")
