"""Numbers and small pictures of clips, for ``report.html``."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.codec import Clip, encode_image
from rome_lightning.geometry import axis_angle_to_matrix

_THUMBNAIL = 128


def sharpness(
    images: UInt8[np.ndarray, "n s s 3"], inside: Bool[np.ndarray, "n s s"]
) -> Float[np.ndarray, " n"]:
    """Mean squared Laplacian of the luminance inside a mask; falls with defocus and motion blur."""
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    laplacian = np.zeros_like(grey)
    laplacian[:, 1:-1, 1:-1] = (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    ) - 4 * grey[:, 1:-1, 1:-1]
    area = inside.sum((1, 2)).clip(1)
    return (laplacian**2 * inside).sum((1, 2)) / area


def head_angles(pose: Float[Tensor, "n p"]) -> Float[np.ndarray, "n 3"]:
    """Yaw (to the picture's right), pitch (up) and roll of the head against the camera, degrees."""
    pose = torch.as_tensor(pose).float()
    rotation = axis_angle_to_matrix(pose[:, :3]) @ axis_angle_to_matrix(pose[:, 3:6])
    forward = rotation[:, :, 2]
    yaw = torch.atan2(forward[:, 0], forward[:, 2])
    pitch = torch.asin(forward[:, 1].clamp(-1, 1))
    roll = torch.atan2(rotation[:, 1, 0], rotation[:, 1, 1])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], dim=1)).numpy()


def clip_statistics(clip: Clip, sharp: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """JSON values: key, identity, and per frame yaw, pitch, expression energy, sharpness, confidence.

    The energy of an expression is the root of the sum of its squared coefficients.
    """
    angles = head_angles(torch.from_numpy(np.asarray(clip.arrays["pose"])))
    energy = np.linalg.norm(np.asarray(clip.arrays["expression"]), axis=1)
    columns = {
        "yaw": angles[:, 0],
        "pitch": angles[:, 1],
        "expression": energy,
        "sharpness": sharp,
        "confidence": clip.arrays["confidence"],
    }
    rounded = {name: [float(f"{value:.3g}") for value in values] for name, values in columns.items()}
    return {"key": clip.key, "identity": clip.identity, **rounded}


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Small JPEG, base64."""
    small = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return base64.b64encode(encode_image(np.asarray(small))).decode()
