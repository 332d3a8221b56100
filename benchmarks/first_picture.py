"""The images of README and gallery: the astronaut rendered by the shipped model.

Run ``python benchmarks/first_picture.py docs/images`` after a change of the shipped model or the rendering.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path

import skimage.data
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rome_lightning import Avatar
from rome_lightning.media.image import to_uint8, write_png
from rome_lightning.report.pictures import mesh_overlay, shaded
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

TURN_DEG = 30.0
"""Rotation of the views to either side, degrees."""
OPEN, CLOSED = {"jawOpen": 0.6}, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}


def posed(avatar: Avatar, yaw_deg: float = 0.0, expression: dict[str, float] | None = None) -> HeadParams:
    """The head facing the camera, rotated by a yaw angle and with a named expression."""
    params = at_rest(avatar.source.params)
    pose = torch.tensor([[0.0, math.radians(yaw_deg), 0.0]])
    values = params.expression.clone()
    for name, amount in (expression or {}).items():
        values[:, avatar.model.head.expression_names.index(name)] = amount
    return dataclasses.replace(params, global_pose=pose, expression=values)


def row(images: list[Float[Tensor, "1 3 h w"]]) -> Float[Tensor, "3 h w6"]:
    """Images side by side."""
    return torch.cat(images, dim=-1)[0].clamp(0, 1)


def main() -> None:
    """Write the images into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder, e.g. docs/images")
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        photo = Path(scratch) / "astronaut.png"
        Image.fromarray(skimage.data.astronaut()).save(photo)
        avatar = Avatar.from_photo(photo)
    source = avatar.source
    own = next(avatar.draw(source.params))
    left, front, right = (next(avatar.draw(posed(avatar, yaw))) for yaw in (-TURN_DEG, 0.0, TURN_DEG))
    mouth, lids = (next(avatar.draw(posed(avatar, 0.0, expression))) for expression in (OPEN, CLOSED))
    write_png(
        folder / "astronaut.png",
        to_uint8(row([source.image, left.image, right.image, mouth.image, lids.image, shaded(right)])),
    )
    rows = {
        "gallery_photo": [source.image, own.image, mesh_overlay(source.image, own)],
        "gallery_turns": [left.image, front.image, right.image],
        "gallery_mesh": [shaded(left), shaded(front), shaded(right)],
    }
    for name, images in rows.items():
        Image.fromarray(to_uint8(row(images))).save(folder / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
