"""The visibility backends and their registration with torch."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.acceleration import has_kernels, kernels, warp_status
from rome_lightning.acceleration.operator import operator
from rome_lightning.renderer import torch_visibility
from rome_lightning.renderer.mesh_check import check_image_size, check_mesh


@runtime_checkable
class Rasterizer(Protocol):
    """A visibility backend; everything differentiable is built on its face ids."""

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
            cull_backfaces: skip faces seen from inside.

        Returns:
            Face index, -1 on the background. No gradient.

        Raises:
            ValueError: a vertex is not finite, or the shapes do not match.
        """
        ...


class _Builtin:
    """Backends whose visibility test is an operator of this package."""

    name: str

    def face_ids(
        self,
        vertices_px: Float[Tensor, "b v 3"],
        faces: Int[Tensor, "f 3"],
        image_size: tuple[int, int],
        cull_backfaces: bool = False,
    ) -> Int32[Tensor, "b h w"]:
        """See ``Rasterizer.face_ids``."""
        vertices_px = vertices_px.detach()
        if vertices_px.dtype != torch.float64:
            vertices_px = vertices_px.float()
        fused = self.name == "warp" and has_kernels(vertices_px)
        ids: Tensor = _face_ids(vertices_px, faces, *image_size, cull_backfaces, fused)
        return ids


class TorchRasterizer(_Builtin):
    """The reference backend, always available."""

    name = "torch"


class WarpRasterizer(_Builtin):
    """One compiled kernel on CPU and CUDA, without host synchronisation; torch handles float64.

    The first use on a machine compiles for some seconds; later runs use Warp's cache. Render in the training
    process, never in data loader workers: the CPU kernel is single-threaded.
    """

    name = "warp"


@operator("face_ids")
def _face_ids(
    vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool, fused: bool
) -> Tensor:
    """Opaque to graph capture, because the amount of work depends on the data."""
    check_image_size(height, width)
    vertices_px = check_mesh(vertices_px, faces)
    if fused:
        return kernels("renderer").face_ids(vertices_px, faces, height, width, cull_backfaces)
    return torch_visibility.visible_faces(vertices_px, faces, (height, width), cull_backfaces)


@_face_ids.register_fake
def _(
    vertices_px: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool, fused: bool
) -> Tensor:
    return vertices_px.new_empty((vertices_px.shape[0], height, width), dtype=torch.int32)


def available_rasterizers() -> dict[str, str]:
    """The backends by name, each with "ok" or the reason why it cannot be used here."""
    from rome_lightning.renderer.pytorch3d_rasterizer import pytorch3d_status

    return {"warp": warp_status(), "torch": "ok", "release": "ok", "pytorch3d": pytorch3d_status()}


def get_rasterizer(name: str = "auto") -> Rasterizer:
    """Create a backend by name.

    Example:
        >>> triangle = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 4.0, 1.0], [4.0, 0.0, 1.0]]])
        >>> get_rasterizer("torch").face_ids(triangle, torch.tensor([[0, 1, 2]]), (3, 3))
        tensor([[[ 0,  0,  0],
                 [ 0,  0,  0],
                 [ 0,  0, -1]]], dtype=torch.int32)

    Args:
        name: a key of ``available_rasterizers``, or ``auto``: Warp if it is installed, else torch.

    Raises:
        ImportError: the backend's package is missing; the message says where to get it.
    """
    if name == "auto":
        name = "warp" if warp_status() == "ok" else "torch"
    if name == "torch":
        return TorchRasterizer()
    if name == "warp":
        kernels("renderer")
        return WarpRasterizer()
    if name == "release":
        from rome_lightning.renderer.released import ReleasedRasterizer

        return ReleasedRasterizer()
    if name == "pytorch3d":
        from rome_lightning.renderer.pytorch3d_rasterizer import PyTorch3DRasterizer

        return PyTorch3DRasterizer()
    raise ValueError(f"unknown rasterizer {name!r}; known: auto, {', '.join(available_rasterizers())}")
