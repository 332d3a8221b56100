"""Make ``golden_pytorch3d.safetensors``: values and gradients of PyTorch3D on a small mesh.

Needs PyTorch3D (CPU is enough): ``python tests/renderer/make_golden.py``.
"""

from pathlib import Path

import torch
from pytorch3d import _C
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes
from renderer_meshes import bumpy, sphere
from safetensors.torch import save_file

from rome_lightning.renderer.pytorch3d_rasterizer import to_pytorch3d_ndc

SIZE = (48, 40)
SETTINGS = {"official": (1e-4, 1e-4, 10), "wide": (1e-3, 9.21e-3, 10)}


def main() -> None:
    assert _C is not None
    vertices, faces = sphere(15.0, (19.3, 23.6))
    vertices = bumpy(vertices, 1.5)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, *SIZE, generator=generator).half().float()
    attributes = torch.randn(vertices.shape[1], 2, generator=generator)
    channel_weights = torch.randn(1, *SIZE, 2, generator=generator).half().float()
    golden = {
        "vertices_px": vertices,
        "faces": faces.short(),
        "weights": weights.half(),
        "attributes": attributes,
        "channel_weights": channel_weights.half(),
    }
    for name, (sigma, blur, layers) in SETTINGS.items():
        leaf = vertices.clone().requires_grad_()
        meshes = Meshes(to_pytorch3d_ndc(leaf, SIZE), faces[None])
        # Without clipping, as in the release, depth is extrapolated outside a face; MeshRasterizer clips.
        ids, _, _, distance = rasterize_meshes(
            meshes, SIZE, blur_radius=blur, faces_per_pixel=layers, clip_barycentric_coords=name == "wide"
        )
        probability = torch.sigmoid(-distance / sigma) * (ids >= 0)
        alpha = 1 - (1 - probability).prod(-1)
        (alpha * weights).sum().backward()
        golden[f"{name}_alpha"], golden[f"{name}_gradient"] = alpha.detach(), leaf.grad
    leaf = vertices.clone().requires_grad_()
    meshes = Meshes(to_pytorch3d_ndc(leaf, SIZE), faces[None])
    ids, _, barycentrics, _ = rasterize_meshes(meshes, SIZE, faces_per_pixel=1)
    values = (attributes[faces[ids[..., 0].clamp_min(0)]] * barycentrics[..., 0, :, None]).sum(-2)
    values = values * (ids >= 0)
    (values * channel_weights).sum().backward()
    golden["ids"], golden["values_gradient"] = ids[..., 0].short(), leaf.grad
    save_file(golden, Path(__file__).with_name("golden_pytorch3d.safetensors"))


if __name__ == "__main__":
    main()
