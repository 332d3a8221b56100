"""Images of the head model: identities at +-2 deviations, random heads, each expression, the atlas.

``python benchmarks/head_pictures.py FOLDER [--head open]``. What to look for: every head could be a
person, eyeballs stay inside their lids, teeth and tongue inside a closed mouth, each expression does
what its name says and nothing else, the atlas has no folds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, project, vertex_normals
from rome_lightning.head import REGIONS, HeadModel, load_head
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.types import HeadParams

COLOURS = {
    "face": (0.93, 0.77, 0.68),
    "ears": (0.93, 0.68, 0.60),
    "eyes": (0.97, 0.97, 0.97),
    "mouth": (0.70, 0.35, 0.35),
    "scalp": (0.60, 0.50, 0.45),
    "neck": (0.88, 0.72, 0.63),
    "shoulders": (0.60, 0.65, 0.80),
}
LIGHT = (0.3, 0.4, 0.866)
SUPERSAMPLING = 2


def params_of(head: HeadModel, count: int) -> HeadParams:
    return HeadParams.neutral(count, head.num_shape, head.num_expression)


def picture(
    head: HeadModel,
    params: HeadParams,
    size: int,
    yaw_degrees: float = 20.0,
    scale: float = 6.0,
    centre_y: float = 0.0,
) -> UInt8[Tensor, "b h w 3"]:
    """Shaded heads, coloured by region, from the given side."""
    pixels = size * SUPERSAMPLING
    turn = torch.tensor([[0.0, torch.pi * yaw_degrees / 180, 0.0]])
    world = head(params) @ axis_angle_to_matrix(turn).mT
    camera = torch.tensor([[scale, 0.0, -centre_y]]).expand(len(params), 3)
    points = project(world, camera, (pixels, pixels))
    ids = get_rasterizer("auto").face_ids(points, head.faces, (pixels, pixels), cull_backfaces=True)
    colour = sum(torch.tensor(COLOURS[name]) * head.region(name)[:, None] for name in REGIONS)
    normals = interpolate(points, head.faces, ids, vertex_normals(world, head.faces))
    light = torch.einsum("bchw,c->bhw", torch.nn.functional.normalize(normals, dim=1), torch.tensor(LIGHT))
    albedo = interpolate(points, head.faces, ids, torch.as_tensor(colour)[None])
    image = albedo * (0.2 + 0.8 * light.clamp(0, 1))[:, None]
    image = torch.where((ids < 0)[:, None], torch.ones(()), image)
    image = torch.nn.functional.avg_pool2d(image, SUPERSAMPLING)
    return (image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


def save_sheet(images: UInt8[Tensor, "b h w 3"], labels: list[str], columns: int, path: Path) -> None:
    size = images.shape[1]
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        corner = (index % columns * size, index // columns * size)
        sheet.paste(Image.fromarray(image.numpy()), corner)
        draw.text((corner[0] + 4, corner[1] + 4), label, fill="black")
    sheet.save(path)


def identities(head: HeadModel, folder: Path, count: int = 12) -> None:
    numbers = [*range(min(count, head.num_shape)), *range(max(count, head.num_shape - 4), head.num_shape)]
    params = params_of(head, 2 * len(numbers))
    shape = torch.zeros_like(params.shape)
    for row, number in enumerate(numbers):
        shape[2 * row, number], shape[2 * row + 1, number] = -2.0, 2.0
    images = picture(head, dataclasses.replace(params, shape=shape), 220, scale=4.5, centre_y=-0.06)
    labels = [f"{number} {sign}2" for number in numbers for sign in "-+"]
    save_sheet(images, labels, 8, folder / "identities.png")
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(24, head.num_shape, generator=generator)
    images = picture(head, dataclasses.replace(params_of(head, 24), shape=shape), 220, scale=5.5)
    save_sheet(images, [f"random {i}" for i in range(24)], 8, folder / "random.png")


def expressions(head: HeadModel, folder: Path) -> None:
    expression = torch.eye(head.num_expression)
    names = list(head.expression_names)
    if {"mouthClose", "jawOpen"} <= set(names):
        # mouthClose closes lips over an open jaw and is meaningless without it.
        expression[names.index("mouthClose"), names.index("jawOpen")] = 1.0
    params = dataclasses.replace(params_of(head, head.num_expression), expression=expression)
    images = picture(head, params, 240, yaw_degrees=10.0, scale=9.0)
    save_sheet(images, names, 9, folder / "expressions.png")
    single = folder / "expressions"
    single.mkdir(exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image.numpy()).save(single / f"{name}.png")


def atlas(head: HeadModel, folder: Path, size: int = 1024) -> None:
    points = torch.cat([head.uvs * size - 0.5, torch.zeros(len(head.uvs), 1)], dim=-1)[None]
    ids = get_rasterizer("auto").face_ids(points, head.uv_faces, (size, size))
    colour = sum(torch.tensor(COLOURS[name]) * head.region(name)[:, None] for name in REGIONS)
    image = interpolate(points, head.uv_faces, ids, torch.as_tensor(colour)[None], head.faces)
    image = torch.where((ids < 0)[:, None], torch.ones(()), image)[0].permute(1, 2, 0)
    canvas = Image.fromarray((image * 255).round().to(torch.uint8).numpy())
    draw = ImageDraw.Draw(canvas)
    for corners in (head.uvs[head.uv_faces] * size).tolist():
        draw.polygon([tuple(corner) for corner in corners], outline=(90, 90, 90))
    canvas.save(folder / "atlas.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder, created if missing")
    parser.add_argument("--head", default="open", help="`open` or the path of a FLAME pickle")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    head = load_head(arguments.head)
    with torch.no_grad():
        identities(head, arguments.folder)
        expressions(head, arguments.folder)
        atlas(head, arguments.folder)


if __name__ == "__main__":
    main()
