"""Read image files of any kind as upright sRGB on white."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import ExifTags, Image, ImageCms, ImageOps

from rome_lightning.media import colours

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".avif"),
    *(".heic", ".heif", ".gif", ".ppm", ".pgm"),
)
"""Of the files that ``read_image`` reads."""
MAX_PIXELS = 178_956_970
"""Of one picture: the limit of Pillow, half a gigabyte as RGB."""
_PNG = b"\x89PNG\r\n\x1a\n"
_SAVE_AS = "save it as JPEG or PNG"
_RAW_PHOTOMETRIC = (32803, 34892)
"""Colour filter array and linear raw, of TIFF's tag 262."""
_PREDICTABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error),
    Image.DecompressionBombError,
)
"""By all of these Pillow and tifffile report damaged files."""


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a photograph as upright sRGB; see ``decode_image``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image that can be read, or a damaged one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no image at {path}")
    if not path.is_file():
        raise ValueError(f"cannot read {path} as an image: it is not a regular file")
    return decode_image(path.read_bytes(), str(path))


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The bytes of a picture file as upright sRGB.

    The file's rotation (EXIF or XMP) is applied, its colours (ICC, cICP, gamma and chromaticities of PNG,
    Adobe RGB by EXIF) are converted to sRGB, transparent pixels are laid on white; greyscale, palette, CMYK,
    Lab, 16-bit, 32-bit and floating-point pictures become 8-bit RGB. Of animations the first picture counts.

    Args:
        data: of a format that Pillow reads, TIFF of any sample type, or HEIC where pillow-heif is installed.
        name: for messages.

    Raises:
        ValueError: not an image that can be read, a damaged one, or one above ``MAX_PIXELS``.
    """
    try:
        _check_kind(data)
        with warnings.catch_warnings():
            # Its warning is below the limit that is checked here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _decode(data, name)
    except _PREDICTABLE as error:
        text = " ".join(str(error).split())
        if isinstance(error, Image.DecompressionBombError):
            text = f"it has more than {MAX_PIXELS:,} pixels; scale it down"
        elif isinstance(error, Image.UnidentifiedImageError):
            text = "the format is unknown, or the file is damaged"
        raise ValueError(f"cannot read {name} as an image: {text}") from error


def _check_kind(data: bytes) -> None:
    """Refuse, with a remedy, formats that Pillow does not know or of which it would read a thumbnail."""
    if not data:
        raise ValueError("it is empty (0 bytes)")
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n":
        raise ValueError(f"it is JPEG XL, which is not supported; {_SAVE_AS}")
    raw = data[:15] == b"FUJIFILMCCD-RAW" or brand == b"crx " or data[8:10] == b"CR"
    if raw or data[:4] in (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM"):
        raise ValueError(f"it is a camera's raw file, which is not read; develop it and {_SAVE_AS}")
    if data[:5] == b"%PDF-" or b"<svg" in data[:1000]:
        raise ValueError(f"it is a page or drawing, not an image; {_SAVE_AS}")
    brands = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    if brand in brands and b"avif" not in data[8:64]:
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError(
                f"it is HEIC, which needs pillow-heif: pip install 'rome-lightning[heic]', or {_SAVE_AS}"
            ) from error
        pillow_heif.register_heif_opener()


def _decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _deep_tiff(data)
        raise
    with image:
        tags = getattr(image, "tag_v2", {})
        if tags.get(254, 0) & 1 or tags.get(262) in _RAW_PHOTOMETRIC or 50706 in tags:
            raise ValueError(f"it is a camera's raw file, which is not read; develop it and {_SAVE_AS}")
        image.load()
        return _to_rgb(_eight_bits(_upright(image), tags), image, _coded_colours(data), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _PREDICTABLE:
        # Unreadable EXIF is ignored; viewers show such images as stored.
        return image


def _eight_bits(image: Image.Image, tags: Any) -> Image.Image:
    """Single channels of more than 8 bits, scaled by what their type and tags say."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float32)
    bits = int(np.max(tags.get(258, (0,))))
    if image.mode.startswith("I;"):
        top = 2.0**bits - 1 if 8 < bits < 16 else 65535.0
    else:
        top = _top(values, tags, is_float=image.mode == "F")
    share = (values / top).clip(0, 1)
    grey = Image.fromarray(np.rint(255 * (1 - share if tags.get(262) == 0 else share)).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey


def _top(values: np.ndarray, tags: Any, is_float: bool) -> float:
    """What is white in numbers without a range of their own: as stated, else the least common range."""
    if not np.isfinite(values).all():
        raise ValueError(f"it has pixels that are not finite; {_SAVE_AS}")
    if stated := tags.get(341):
        return float(np.max(stated))
    highest = float(values.max(initial=0))
    if is_float and highest < 2:
        return 1.0  # slightly above it: light that clips
    common = (255.0, 65535.0) if is_float else (65535.0, 2.0**31 - 1)
    return next((top for top in common if highest <= top), 2.0**32 - 1)


def _to_rgb(
    image: Image.Image, opened: Image.Image, codes: tuple[int, int] | None, name: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of the file's own space as sRGB, on white."""
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info:
        full = image.convert("RGBA")
        alpha = full.getchannel("A")
        image = full.convert("RGB") if image.mode not in ("LA", "La") else full.convert("L")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    # In PNG the numbers win over a profile, in HEIC and AVIF the profile over the numbers.
    has_codes = codes is not None and opened.format == "PNG"
    rgb = None if has_codes else _by_profile(image, opened.info.get("icc_profile"), name)
    if rgb is None:
        pixels = np.asarray(image.convert("RGB"))
        space = _tagged_space(opened) if codes is None else colours.coded_space(*codes)
        rgb = Image.fromarray(pixels if space is None else colours.to_srgb(_widened(pixels), *space))
    if alpha is not None:
        white = Image.new("RGB", rgb.size, "white")
        white.paste(rgb, mask=alpha)
        rgb = white
    return np.array(rgb)


def _by_profile(image: Image.Image, icc: bytes | None, name: str) -> Image.Image | None:
    """The picture through its ICC profile; None without one."""
    if not icc:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        return ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        warnings.warn(f"{name}: its colour profile cannot be used and is ignored ({error})", stacklevel=2)
        return None


def _coded_colours(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer by the numbers of ITU-T H.273: ``colr`` of HEIC and AVIF, ``cICP`` of PNG."""
    if data.startswith(_PNG):
        found = next((content for kind, content in _png_chunks(data) if kind == b"cICP"), None)
        if found is None:
            return None
        if len(found) != 4 or found[2] != 0 or found[3] != 1:
            raise ValueError(f"its cICP chunk {found.hex(' ')} is not that of full-range RGB; {_SAVE_AS}")
        return found[0], found[1]
    place = data.find(b"colrnclx", 0, 1 << 16) if data[4:8] == b"ftyp" else -1
    return None if place < 0 else struct.unpack_from(">HH", data, place + 8)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of what is before the pixels."""
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            return
        yield kind, data[place + 8 : place + 8 + length]
        place += length + 12


def _tagged_space(opened: Image.Image) -> colours.Space | None:
    """What chunks of PNG and the EXIF of cameras say; None for sRGB."""
    primaries: colours.Chromaticities = colours.BT709
    transfer: str | float = "srgb"
    if opened.format == "PNG" and "srgb" not in opened.info:
        if gamma := opened.info.get("gamma"):
            # 0.45455 is what everybody writes for sRGB itself.
            transfer = "srgb" if abs(gamma - 1 / 2.2) < 0.005 else 1 / gamma
        if xy := opened.info.get("chromaticity"):
            white, red, green, blue = zip(xy[::2], xy[1::2], strict=True)
            primaries = (red, green, blue, white)
    elif _is_adobe_rgb(opened):
        return colours.ADOBE_RGB, colours.ADOBE_GAMMA
    if transfer == "srgb" and np.abs(np.subtract(primaries, colours.BT709)).max() < 0.002:
        return None
    return primaries, transfer


def _widened(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt16[np.ndarray, "h w 3"]:
    return rgb.astype(np.uint16) * np.uint16(257)


def _is_adobe_rgb(opened: Image.Image) -> bool:
    """Whether EXIF says Adobe RGB, by colour space 2 or by DCF's R03."""
    try:
        exif = opened.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        return details.get(0xA001) == 2 or exif.get_ifd(ExifTags.IFD.Interop).get(1) in ("R03", b"R03")
    except _PREDICTABLE:
        return False


def _deep_tiff(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """TIFF with several channels of samples that Pillow has no mode for."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        tags = {code: page.tags.valueof(code) for code in (258, 262, 274, 341)}
        tags = {code: value for code, value in tags.items() if value is not None}
        if page.imagewidth * page.imagelength > MAX_PIXELS:
            raise ValueError(f"it has {page.imagewidth}x{page.imagelength} pixels; scale it down")
        values = page.asarray()
    if values.ndim == 3 and page.axes.startswith("S"):
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] not in (3, 4) or tags.get(262) != 2:
        raise ValueError(f"it is TIFF with samples of shape {values.shape}; {_SAVE_AS}")
    numbers = values.astype(np.float64)
    bits = page.bitspersample
    is_float = values.dtype.kind == "f"
    top = _top(numbers, tags, is_float) if is_float or bits > 16 else 2.0**bits - 1
    share = (numbers / top).clip(0, 1)
    rgb, alpha = share[..., :3], share[..., 3:]
    if values.shape[-1] == 4 and tuple(page.extrasamples or ()) in ((1,), (2,)):
        rgb = (rgb if page.extrasamples[0] == 1 else rgb * alpha) + 1 - alpha
    image = Image.fromarray(np.rint(255 * rgb.clip(0, 1)).astype(np.uint8))
    image.getexif()[ExifTags.Base.Orientation] = int(tags.get(274, 1))
    return np.array(ImageOps.exif_transpose(image))
