"""Backgrounds of an avatar: a colour, the photograph without the person, an image, or transparency."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar import Avatar
from rome_lightning.media.image import to_uint8
from rome_lightning.media.pictures import read_image
from rome_lightning.renderer import push_pull
from rome_lightning.renderer.morphology import dilate
from rome_lightning.types import HeadParams

WHITE, PHOTO, TRANSPARENT = "white", "photo", "transparent"
_AROUND = 0.03
"""Width of the band around the person that counts as the person, share of the picture."""


def read_background(text: str, avatar: Avatar, image_size: tuple[int, int]) -> Float[Tensor, "3 h w"] | None:
    """The picture behind an avatar; ``None`` for transparent.

    Args:
        text: ``white``, ``photo``, ``transparent``, ``#rrggbb``, or a picture file, of which the middle is
            shown.
        avatar: whose first photograph is used for ``photo``: what the person hides is filled smoothly.
        image_size: height and width of the pictures, pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither of these.
    """
    height, width = image_size
    if text == TRANSPARENT:
        return None
    if text == WHITE:
        return torch.ones(3, height, width)
    if text == PHOTO:
        photo = avatar.photos[slice(0, 1)]
        empty, _ = without_person(photo.image, photo.foreground_mask)
        return F.interpolate(empty, image_size, mode="bilinear", antialias=True)[0]
    if text.startswith("#"):
        if not re.fullmatch("#[0-9a-fA-F]{6}", text):
            raise ValueError(f"a background colour must be #rrggbb, got {text}")
        colour = torch.tensor(list(bytes.fromhex(text[1:]))) / 255
        return colour.view(3, 1, 1).expand(3, height, width)
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(
            f"no background {text}: use white, photo, transparent, #rrggbb or an image file"
        )
    picture = Image.fromarray(read_image(path))
    scale = max(width / picture.width, height / picture.height)
    fitted = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (fitted.width - width) // 2, (fitted.height - height) // 2
    middle = fitted.crop((left, top, left + width, top + height))
    return (
        torch.frombuffer(bytearray(middle.tobytes()), dtype=torch.uint8)
        .view(height, width, 3)
        .permute(2, 0, 1)
        / 255
    )


def without_person(
    image: Float[Tensor, "b 3 s s"], person: Float[Tensor, "b 1 s s"]
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 1 s s"]]:
    """A plausible background behind a person: a smooth continuation of the surroundings.

    Args:
        image: RGB in [0, 1].
        person: opacity, [0, 1].

    Returns:
        The picture with the person filled; and how far each pixel shows what is behind, [0, 1].
    """
    seen = (1 - dilate(person, max(1, round(_AROUND * image.shape[-1])))).clamp(0, 1)
    if float(seen.mean()) < 1e-3:
        return torch.ones_like(image), seen
    # Beyond the border of the photograph its last pixels are repeated, which is background as well.
    return torch.lerp(push_pull(image, seen), image, seen).clamp(0, 1), seen


def composed(
    rgb: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"], background: Float[Tensor, "3 h w"] | None
) -> UInt8[np.ndarray, "b h w c"]:
    """Pictures on a background: RGB, or RGBA with straight alpha without one.

    Args:
        rgb: colours in [0, 1]; of no meaning where nothing is opaque.
        mask: opacity, [0, 1].
        background: RGB in [0, 1].
    """
    if background is None:
        return to_uint8(torch.cat([rgb, mask], dim=1))
    return to_uint8(torch.lerp(background.to(rgb.device).expand_as(rgb), rgb, mask))


def draw_layers(
    avatar: Avatar,
    driver: HeadParams,
    image_size: tuple[int, int],
    batch_size: int = 8,
    corrections: bool = True,
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]]:
    """The networks' colours and opacity, [0, 1], at any size.

    Args:
        avatar: the person to draw.
        driver: poses.
        image_size: height and width, pixels. What is smaller than the networks know is reduced from there.
        batch_size: frames drawn at once.
        corrections: as for ``Avatar.draw``.
    """
    least = avatar.network_size
    drawn = image_size if min(image_size) >= least else (least, least)
    for rendered in avatar.draw(driver, batch_size, image_size=drawn, corrections=corrections):
        rgb, mask = rendered.rgb, rendered.mask
        if drawn != image_size:
            rgb, mask = (
                F.interpolate(layer, image_size, mode="bilinear", antialias=True) for layer in (rgb, mask)
            )
        yield rgb, mask
