"""What every rasterizer refuses."""

from __future__ import annotations

import torch
from torch import Tensor


def check_mesh(vertices_px: Tensor, faces: Tensor) -> None:
    """Refuse shapes that do not fit and vertices that are not finite."""
    if vertices_px.ndim != 3 or vertices_px.shape[-1] != 3:
        raise ValueError(f"vertices_px must have shape (batch, vertices, 3), got {tuple(vertices_px.shape)}")
    if faces.ndim != 2 or faces.shape[-1] != 3:
        raise ValueError(f"faces must have shape (faces, 3), got {tuple(faces.shape)}")
    if vertices_px.device.type == "cuda":
        # Reading the flag would make the host wait at every frame; the device stops by itself.
        torch._assert_async(vertices_px.isfinite().all(), "vertices_px holds NaN or infinity")
    elif not vertices_px.sum().isfinite():
        count = int((~vertices_px.isfinite()).any(-1).sum())
        if count:
            raise ValueError(
                f"vertices_px must be finite, got {count} vertices with NaN or infinity; "
                "the networks or the head parameters have diverged"
            )
