"""Differentiable crops of faces and eyes at landmarks, as recognition networks want them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.types.landmarks import ALIGNED_FACE_SIZE, FIVE_POINT_TEMPLATE, FIVE_POINTS


def aligned_faces(
    images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b l 2"]
) -> Float[Tensor, "b 3 112 112"]:
    """Faces turned, scaled and moved so that eyes, nose and mouth lie where recognition expects them.

    The similarity is the one of least squares from the template's points to the image's; gradients flow
    into the images.

    Args:
        images: any range.
        landmarks: 478 MediaPipe points, pixels of the images.

    Source: the alignment of ArcFace and SFace; the closed form is Umeyama's, 1991, in the plane.
    """
    points = torch.stack([landmarks[:, list(group)].mean(1) for group in FIVE_POINTS], dim=1)
    template = landmarks.new_tensor(FIVE_POINT_TEMPLATE)
    to, here = points - points.mean(1, keepdim=True), template - template.mean(0)
    # A plane similarity is a complex factor: (cosine, sine) times the scale.
    cosine = (to * here).sum((1, 2))
    sine = (to[..., 1] * here[:, 0] - to[..., 0] * here[:, 1]).sum(1)
    cosine, sine = cosine / here.square().sum(), sine / here.square().sum()
    steps = torch.arange(ALIGNED_FACE_SIZE, dtype=landmarks.dtype, device=landmarks.device)
    y, x = torch.meshgrid(steps - template[:, 1].mean(), steps - template[:, 0].mean(), indexing="ij")
    centre = points.mean(1)[:, :, None, None]
    cosine, sine = cosine[:, None, None], sine[:, None, None]
    pixels = torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=1) + centre
    return _sample(images, pixels)


def eye_crops(
    images: Float[Tensor, "b 3 h w"],
    landmarks: Float[Tensor, "b l 2"],
    corners: tuple[int, int],
    size: int = 64,
) -> Float[Tensor, "b 3 s s"]:
    """Upright squares around one eye, twice as wide as the eye.

    Args:
        images: any range.
        landmarks: 478 MediaPipe points, pixels of the images.
        corners: landmarks of the eye's corners.
        size: side of the result, pixels.
    """
    first, second = landmarks[:, corners[0]], landmarks[:, corners[1]]
    centre = ((first + second) / 2)[:, :, None, None]
    # An eye seen from the side is narrow; a pixel at least is always there to look at.
    half = (first - second).norm(dim=1).clamp_min(1.0)[:, None, None]
    steps = (torch.arange(size, dtype=landmarks.dtype, device=landmarks.device) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return _sample(images, torch.stack([half * x, half * y], dim=1) + centre)


def _sample(images: Float[Tensor, "b 3 h w"], pixels: Float[Tensor, "b 2 p q"]) -> Float[Tensor, "b 3 p q"]:
    """Values of images at pixel positions (x, y); beyond the border, those of the border."""
    height, width = images.shape[-2:]
    scale = pixels.new_tensor([2 / width, 2 / height])
    grid = (pixels.permute(0, 2, 3, 1) + 0.5) * scale - 1
    return F.grid_sample(images, grid.to(images.dtype), align_corners=False, padding_mode="border")
