"""PyTorch3D's rasterizer behind the same interface, for parity with the official release."""

from __future__ import annotations

import importlib.util

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.renderer.mesh_check import check_image_size, check_mesh

INSTALL_PAGE = "https://github.com/facebookresearch/pytorch3d/blob/main/INSTALL.md"


def pytorch3d_status() -> str:
    """Return "ok", or the reason why PyTorch3D cannot be used."""
    if importlib.util.find_spec("pytorch3d") is None:
        return f"PyTorch3D is not installed; it has no wheel on PyPI, see {INSTALL_PAGE}"
    return "ok"


class PyTorch3DRasterizer:
    """Hard rasterization by PyTorch3D.

    On the CPU it loops over all faces at every pixel. A pixel centre on an edge may be assigned to a
    different face than in our backends.
    """

    name = "pytorch3d"

    def __init__(self) -> None:
        status = pytorch3d_status()
        if status != "ok":
            raise ImportError(status)

    def face_ids(
        self,
        vertices_px: Float[Tensor, "b v 3"],
        faces: Int[Tensor, "f 3"],
        image_size: tuple[int, int],
        cull_backfaces: bool = False,
    ) -> Int32[Tensor, "b h w"]:
        """See ``Rasterizer.face_ids``."""
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes

        vertices_px = vertices_px.detach().float()
        check_image_size(*image_size)
        vertices_px = check_mesh(vertices_px, faces)
        batch = len(vertices_px)
        meshes = Meshes(
            to_pytorch3d_ndc(vertices_px, image_size), faces.long().expand(batch, -1, -1).contiguous()
        )
        packed = rasterize_meshes(
            meshes,
            image_size,
            blur_radius=0.0,
            faces_per_pixel=1,
            perspective_correct=False,
            cull_backfaces=cull_backfaces,
        )[0][..., 0]
        first = torch.arange(batch, device=packed.device)[:, None, None] * len(faces)
        return torch.where(packed < 0, -1, packed - first).to(torch.int32)


def to_pytorch3d_ndc(
    vertices_px: Float[Tensor, "b v 3"], image_size: tuple[int, int]
) -> Float[Tensor, "b v 3"]:
    """Pixels to PyTorch3D's space: x left, y up, [-1, 1] along the shorter side, positive depth.

    PyTorch3D drops faces at negative depth, so each mesh is moved to start at 1.
    """
    height, width = image_size
    unit = 2 / min(height, width)
    x, y, z = vertices_px.unbind(-1)
    depth = (z - z.detach().amin(1, keepdim=True)) * unit + 1
    return torch.stack([(width / 2 - x - 0.5) * unit, (height / 2 - y - 0.5) * unit, depth], dim=-1)
