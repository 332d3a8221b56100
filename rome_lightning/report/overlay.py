"""Overlays for checking tracking by eye."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.types import HeadParams

REGION_COLOURS = (
    (0, 0, 0),
    (205, 75, 75),
    (90, 190, 90),
    (255, 215, 170),
    (80, 95, 215),
    (225, 215, 60),
    (110, 110, 110),
)
"""RGB of each ``Region``."""
_GREEN = (0, 190, 0)
_PALE, _LIGHT = (0.86, 0.89, 0.95), (0.25, 0.45, 0.86)


def contact_sheet(clip: TrackedClip, head: HeadModel, num_frames: int = 6) -> UInt8[np.ndarray, "h w 3"]:
    """Rows of frames spread over a clip: landmarks, fitted mesh, regions, matte.

    Each row is captioned with the frame's number, its fit error, and its problem if it has one; frames
    with a problem have a red border.

    Args:
        clip: tracked with ``head``.
        head: the model that was fitted.
        num_frames: rows; fewer if the clip is shorter.
    """
    indices = np.unique(np.linspace(0, len(clip) - 1, num_frames).astype(int))
    params = clip.params[torch.from_numpy(indices)]
    rows = []
    for row, index in enumerate(indices):
        image = clip.images[index].numpy()
        pictures = [
            draw_landmarks(image, clip.landmarks[index]),
            draw_mesh(image, head, params[row : row + 1]),
            draw_regions(image, clip.regions[index]),
            draw_matte(image, clip.matte[index]),
        ]
        reason = clip.reasons[index]
        caption = f"frame {index}  error {clip.residual[index]:.1%}  {reason}"
        rows.append(_captioned(np.concatenate(pictures, axis=1), caption, bad=bool(reason)))
    return np.concatenate(rows, axis=0)


def draw_mesh(
    image: UInt8[np.ndarray, "h w 3"],
    head: HeadModel,
    params: HeadParams,
    offsets: Float[Tensor, "1 v 3"] | None = None,
    opacity: float = 0.6,
) -> UInt8[np.ndarray, "h w 3"]:
    """The posed head, shaded and half transparent, over a frame.

    Args:
        image: RGB; its size is that of the camera's image.
        head: the model.
        params: one frame.
        offsets: added to the posed vertices, metres, head space.
        opacity: of the mesh, [0, 1].
    """
    size = (image.shape[0], image.shape[1])
    with torch.no_grad():
        vertices = head(params) if offsets is None else head(params) + offsets
        world = head.to_world(vertices, params)
        vertices_px = project(world, params.camera, size)
        face_ids = get_rasterizer().face_ids(vertices_px, head.faces, size, cull_backfaces=True)
        normals = vertex_normals(world, head.faces)
        drawn = interpolate(vertices_px, head.faces, face_ids, normals)[0]
        mask = (face_ids[0] >= 0).float() * opacity
        towards = torch.tensor(_LIGHT, dtype=drawn.dtype)
        shade = 0.35 + 0.65 * (drawn * (towards / towards.norm())[:, None, None]).sum(0).clamp(0, 1)
    colour = (shade[..., None] * torch.tensor(_PALE) * 255).numpy()
    weight = mask[..., None].numpy()
    return (image * (1 - weight) + colour * weight + 0.5).astype(np.uint8)


def draw_landmarks(
    image: UInt8[np.ndarray, "h w 3"],
    landmarks: Float[Tensor, "l 2"],
    colour: tuple[int, int, int] = (0, 255, 255),
) -> UInt8[np.ndarray, "h w 3"]:
    """Landmarks as dots over a frame, pixels."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    radius = max(image.shape[0] / 512, 0.5)
    for x, y in landmarks.tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.array(picture)


def draw_regions(
    image: UInt8[np.ndarray, "h w 3"], regions: UInt8[Tensor, "h w"], opacity: float = 0.5
) -> UInt8[np.ndarray, "h w 3"]:
    """Region labels in the colours of ``REGION_COLOURS`` over a frame."""
    colours = np.asarray(REGION_COLOURS, np.float32)[regions.numpy()]
    return (image * (1 - opacity) + colours * opacity + 0.5).astype(np.uint8)


def draw_matte(
    image: UInt8[np.ndarray, "h w 3"],
    matte: Float[Tensor, "h w"],
    background: tuple[int, int, int] = _GREEN,
) -> UInt8[np.ndarray, "h w 3"]:
    """The person on a plain background."""
    weight = matte.float().numpy()[..., None]
    return (image * weight + np.asarray(background, np.float32) * (1 - weight) + 0.5).astype(np.uint8)


def _captioned(picture: np.ndarray, caption: str, bad: bool) -> np.ndarray:
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    if bad:
        draw.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=(255, 0, 0), width=3)
    box = draw.textbbox((6, 5), caption)
    draw.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill=(0, 0, 0))
    draw.text((6, 5), caption, fill=(255, 90, 90) if bad else (255, 255, 255))
    return np.array(canvas)
