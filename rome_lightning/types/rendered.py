"""Output of the renderer for losses, metrics and reports."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int32
from torch import Tensor

from rome_lightning.types.struct import TensorStruct


@dataclass(frozen=True)
class Rendered(TensorStruct):
    """Images of an avatar and the geometry they were rendered from."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1], composited on the background that the caller gave."""
    rgb: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1] before compositing; undefined where ``mask`` is 0."""
    mask: Float[Tensor, "b 1 h w"]
    """Predicted foreground, [0, 1]."""
    normals: Float[Tensor, "b 3 h w"] | None
    """Unit normals of the mesh in head space; 0 outside the mesh. ``None`` if no network needs them."""
    mesh_mask: Bool[Tensor, "b 1 h w"]
    """Pixels whose centre the mesh covers."""
    face_ids: Int32[Tensor, "b h w"]
    """Index of the visible face, -1 on the background."""
    vertices: Float[Tensor, "b v 3"]
    """Posed vertices with offsets, metres, head space (not globally rotated)."""
    vertices_px: Float[Tensor, "b v 3"]
    """Projected vertices: x and y in pixels, z in pixels with smaller nearer."""
    offsets: Float[Tensor, "b v 3"]
    """Displacement added to the posed vertices, metres."""
