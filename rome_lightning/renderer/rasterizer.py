"""Choice of the visibility backend, checks of its input and its registration with torch."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.renderer import torch_visibility


class Rasterizer(Protocol):
    """Supplies visibility; everything differentiable is built on its ids."""

    name: str

    def face_ids(
        self,
        vertices_px: Float[Tensor, "b v 3"],
        faces: Int[Tensor, "f 3"],
        image_size: tuple[int, int],
        cull_backfaces: bool = False,
    ) -> Int32[Tensor, "b h w"]:
        """Index of the nearest face at each pixel centre.

        Args:
            vertices_px: x and y in pixels, smaller z is nearer. There is no near plane: with the weak
                perspective camera every finite depth is in front of the viewer.
            faces: corner indices.
            image_size: (height, width).
            cull_backfaces: leave out faces seen from inside.

        Returns:
            Face index, -1 on the background. No gradient.

        Raises:
            ValueError: a vertex is not finite, or shapes do not fit.
        """
        ...


class TorchRasterizer:
    """Reference backend, always there."""

    name = "torch"

    def face_ids(
        self,
        vertices_px: Float[Tensor, "b v 3"],
        faces: Int[Tensor, "f 3"],
        image_size: tuple[int, int],
        cull_backfaces: bool = False,
    ) -> Int32[Tensor, "b h w"]:
        """See ``Rasterizer.face_ids``."""
        return _face_ids(vertices_px.detach(), faces, *image_size, cull_backfaces, self.name)


def check_mesh(vertices_px: Tensor, faces: Tensor) -> None:
    """Refuse shapes that do not fit and vertices that are not finite."""
    if vertices_px.ndim != 3 or vertices_px.shape[-1] != 3:
        raise ValueError(f"vertices_px must have shape (batch, vertices, 3), got {tuple(vertices_px.shape)}")
    if faces.ndim != 2 or faces.shape[-1] != 3:
        raise ValueError(f"faces must have shape (faces, 3), got {tuple(faces.shape)}")
    finite = vertices_px.isfinite().all()
    if vertices_px.device.type == "cuda":
        # Reading the flag would make the host wait at every frame; the device stops by itself.
        torch._assert_async(finite, "vertices_px holds NaN or infinity")
    elif not finite:
        count = int((~vertices_px.isfinite()).any(-1).sum())
        raise ValueError(
            f"vertices_px must be finite, got {count} vertices with NaN or infinity; "
            "the networks or the head parameters have diverged"
        )


@torch.library.custom_op("rome_lightning::face_ids", mutates_args=())
def _face_ids(
    vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool, backend: str
) -> Tensor:
    """Opaque to graph capture, because the work depends on data."""
    check_mesh(vertices_px, faces)
    if vertices_px.dtype not in (torch.float32, torch.float64):
        vertices_px = vertices_px.float()
    return torch_visibility.visible_faces(vertices_px, faces, (height, width), cull_backfaces)


@_face_ids.register_fake
def _(
    vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool, backend: str
) -> Tensor:
    return vertices_px.new_empty((vertices_px.shape[0], height, width), dtype=torch.int32)


def available_rasterizers() -> dict[str, str]:
    """Names of the backends with "ok", or the reason why one cannot be used here."""
    return {"torch": "ok"}


def get_rasterizer(name: str = "auto") -> Rasterizer:
    """Make a backend by name.

    Args:
        name: ``auto`` or a key of ``available_rasterizers``.
    """
    if name in ("auto", "torch"):
        return TorchRasterizer()
    raise ValueError(f"unknown rasterizer {name!r}; known: auto, {', '.join(available_rasterizers())}")
