"""Differentiable crops of faces and eyes at landmarks, for recognition networks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.types.landmarks import ALIGNED_FACE_SIZE, FIVE_POINT_TEMPLATE, FIVE_POINTS


def aligned_faces(
    images: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b l 2"]
) -> Float[Tensor, "b 3 112 112"]:
    """Rotate, scale and shift faces so that eyes, nose and mouth lie where recognition networks expect them.

    The similarity is the least-squares fit from the template's points to the image's; gradients flow into
    the images.

    Args:
        images: any range.
        landmarks: 478 MediaPipe points, pixels of the images.

    Source: the alignment of ArcFace and SFace; the closed form is Umeyama's, 1991, in the plane.
    """
    points = torch.stack([landmarks[:, list(group)].mean(1) for group in FIVE_POINTS], dim=1)
    template = landmarks.new_tensor(FIVE_POINT_TEMPLATE)
    to, here = points - points.mean(1, keepdim=True), template - template.mean(0)
    # A similarity in the plane is a complex factor: (cosine, sine) times the scale.
    cosine = (to * here).sum((1, 2))
    sine = (to[..., 1] * here[:, 0] - to[..., 0] * here[:, 1]).sum(1)
    cosine, sine = cosine / here.square().sum(), sine / here.square().sum()
    turn = torch.stack([cosine, -sine, sine, cosine], dim=1).unflatten(1, (2, 2))
    shift = points.mean(1) - turn @ template.mean(0)
    return _warped(images, torch.cat([turn, shift[..., None]], dim=2), ALIGNED_FACE_SIZE)


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
    # An eye seen from the side is narrow; at least one pixel remains.
    half = (first - second).norm(dim=1).clamp_min(1.0)[:, None]
    # The square spans twice the half, so the centre of its first pixel is half a pixel from its corner.
    scale = 2 * half / size
    corner = (first + second) / 2 - half + scale / 2
    return _warped(images, torch.cat([torch.diag_embed(scale.expand(-1, 2)), corner[..., None]], dim=2), size)


def _warped(
    images: Float[Tensor, "b 3 h w"], matrix: Float[Tensor, "b 2 3"], size: int
) -> Float[Tensor, "b 3 s s"]:
    """Sample images where matrices map the result's pixels (x, y); the border is repeated."""
    # Imported on use: it costs a quarter of a second, and most runs have no such loss.
    from kornia.geometry.transform import invert_affine_transform, warp_affine

    matrix = invert_affine_transform(matrix).to(images.dtype)
    return warp_affine(images, matrix, (size, size), padding_mode="border", align_corners=False)
