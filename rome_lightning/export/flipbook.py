"""The neural render as a flip-book: frames in one image, for tools without networks."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rome_lightning.avatar import Avatar
from rome_lightning.media.atomic import write_together
from rome_lightning.media.image import to_uint8
from rome_lightning.types import HeadParams

FORMAT = "rome-flipbook/1"
LARGEST_SIDE = 8192
"""Largest texture side that graphics cards reliably support, pixels."""


def export_flipbook(avatar: Avatar, path: Path, driver: HeadParams, fps: float) -> list[Path]:
    """Draw the avatar under each pose and put the pictures into a grid, row by row from the top left.

    The picture is RGBA, not premultiplied; cells beyond the last frame are transparent. A ``.json`` beside
    it has the grid, the size of a frame in pixels, the number of frames and their rate.

    Args:
        avatar: the person.
        path: ``.png`` file to write.
        driver: expression, pose and camera of each frame.
        fps: frames per second.

    Returns:
        The picture and its description.

    Raises:
        ValueError: the grid would be larger than ``LARGEST_SIDE``.
    """
    height, width = avatar.image_size
    columns = math.ceil(math.sqrt(len(driver) * height / width))
    rows = math.ceil(len(driver) / columns)
    if max(columns * width, rows * height) > LARGEST_SIDE:
        most = (LARGEST_SIDE // width) * (LARGEST_SIDE // height)
        raise ValueError(
            f"{len(driver)} frames of {width} x {height} pixels need an image with more than "
            f"{LARGEST_SIDE} pixels per side, which graphics cards may not support; {most} frames fit: set "
            "--max-frames"
        )
    atlas = np.zeros((rows * height, columns * width, 4), dtype=np.uint8)
    index = 0
    for rendered in avatar.draw(driver):
        pictures = torch.cat([rendered.rgb, rendered.mask], dim=1)
        for picture in to_uint8(pictures):
            top, left = index // columns * height, index % columns * width
            atlas[top : top + height, left : left + width] = picture
            index += 1
    picture = io.BytesIO()
    Image.fromarray(atlas).save(picture, format="PNG")
    description = {
        "format": FORMAT,
        "image": path.name,
        "columns": columns,
        "rows": rows,
        "frame_width": width,
        "frame_height": height,
        "frames": len(driver),
        "fps": fps,
    }
    document = path.with_suffix(".json")
    write_together({path: picture.getvalue(), document: json.dumps(description, indent=2) + "\n"})
    return [path, document]
