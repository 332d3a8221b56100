"""The renderer compared with PyTorch3D, DRTK, DEODR, nvdiffrast and `grid_sample`.

    python benchmarks/renderer.py [--size 256] [--batch 1] [--threads 1] [--device cuda --batch 16 --size 512]

Four tasks on one mesh:

- visibility: which face is at each pixel centre;
- the whole differentiable pass: visibility, eight interpolated attributes and a silhouette, forward and
  backward to vertices and attributes, from gradients that lie in memory as a network's would;
- the soft silhouette of the official release, forward and backward, with PyTorch3D's settings like for like;
- the lookup of an eight-channel neural texture, forward and backward to texture and vertices. Ours
  interpolates the texture coordinates in the same pass; `grid_sample` is given them.

Peers that are not installed are named in the table: `pip install deodr`; PyTorch3D, DRTK and nvdiffrast are
built from their public sources (nvdiffrast for research only, by its licence). PyTorch3D's rasterizer tests
every face at every pixel on a CPU, so DEODR and DRTK are the honest peers there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from figures import Figure, arguments, figure, finish, installed
from scene import Scene, make_scene
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.renderer import (
    OFFICIAL,
    coverage,
    get_rasterizer,
    interpolate,
    render_texture,
    soft_silhouette,
)

Task = dict[str, Callable[[], object]]
HOW = {
    "pytorch3d": "not installed: built from source, see its INSTALL.md",
    "drtk": "not installed: built from source",
    "deodr": "not installed: pip install deodr",
    "nvdiffrast": "not installed: built from source, for research only",
}


def ours(scene: Scene) -> dict[str, Callable[[], object]]:
    """Our implementation of each task."""
    rasterizer = get_rasterizer("auto")
    faces, size, head = scene.faces, scene.image_size, scene.head
    ids = rasterizer.face_ids(scene.vertices, faces, size)
    uv_faces = head.uv_faces.int()

    def whole() -> None:
        vertices, attributes = scene.leaves()
        ids = rasterizer.face_ids(vertices, faces, size)
        values = interpolate(vertices, faces, ids, attributes)
        mask = coverage(vertices, faces, ids)
        torch.autograd.backward([values, mask], [scene.value_gradient, scene.mask_gradient])

    def soft() -> None:
        vertices, _ = scene.leaves()
        soft_silhouette(vertices, faces, size, **OFFICIAL).backward(scene.mask_gradient)

    def texture() -> None:
        vertices, texture = scene.leaves()[0], scene.texture.detach().requires_grad_()
        values = render_texture(vertices, faces, ids, head.uvs, uv_faces, texture)
        values.backward(scene.value_gradient)

    return {
        "visibility": lambda: rasterizer.face_ids(scene.vertices, faces, size),
        "whole pass": whole,
        "soft silhouette": soft,
        "texture lookup": texture,
    }


def pytorch3d(scene: Scene) -> dict[str, Callable[[], object]]:
    """The whole pass is the release's: soft silhouette with ten faces, hard raster, interpolation."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    from rome_lightning.renderer.pytorch3d_rasterizer import to_pytorch3d_ndc

    size, batch = scene.image_size, len(scene.vertices)
    sigma, blur, layers = (OFFICIAL[key] for key in ("sigma", "blur_radius", "faces_per_pixel"))
    faces = scene.faces.long()

    def mesh(vertices: Tensor) -> Meshes:
        return Meshes(to_pytorch3d_ndc(vertices, size), faces.expand(batch, -1, -1))

    def silhouette(vertices: Tensor) -> Tensor:
        ids, _, _, distance = rasterize_meshes(
            mesh(vertices), size, blur_radius=blur, faces_per_pixel=layers, clip_barycentric_coords=True
        )
        return 1 - (1 - torch.sigmoid(-distance / sigma) * (ids >= 0)).prod(-1)

    def visibility() -> Tensor:
        with torch.no_grad():
            return rasterize_meshes(mesh(scene.vertices), size, faces_per_pixel=1)[0]

    def soft() -> None:
        silhouette(scene.leaves()[0]).backward(scene.mask_gradient[:, 0])

    def whole() -> None:
        vertices, attributes = scene.leaves()
        ids, _, weights, _ = rasterize_meshes(mesh(vertices), size, faces_per_pixel=1)
        per_face = attributes[:, faces].flatten(0, 1)
        values = (per_face[ids[..., 0].clamp_min(0)] * weights[..., 0, :, None]).sum(-2) * (ids >= 0)
        gradients = [scene.value_gradient.permute(0, 2, 3, 1), scene.mask_gradient[:, 0]]
        torch.autograd.backward([values, silhouette(vertices)], gradients)

    return {"visibility": visibility, "whole pass": whole, "soft silhouette": soft}


def drtk(scene: Scene) -> dict[str, Callable[[], object]]:
    """Its silhouette is a hard mask whose gradient its edge estimator adds."""
    import drtk

    size = {"height": scene.size, "width": scene.size}
    in_front = scene.vertices[..., 2:].min() - 1
    shift = torch.tensor([0.0, 0.0, 1.0], device=scene.vertices.device) * in_front

    def visibility() -> Tensor:
        with torch.no_grad():
            return drtk.rasterize(scene.vertices - shift, scene.faces, **size)

    def whole() -> None:
        vertices, attributes = scene.leaves()
        points = vertices - shift
        ids = drtk.rasterize(points, scene.faces, **size)
        _, weights = drtk.render(points, scene.faces, ids)
        mask = (ids >= 0)[:, None].float()
        values = drtk.interpolate(attributes, scene.faces, ids, weights) * mask
        silhouette = drtk.edge_grad_estimator(
            v_pix=points, vi=scene.faces, bary_img=weights, img=mask, index_img=ids
        )
        torch.autograd.backward([values, silhouette], [scene.value_gradient, scene.mask_gradient])

    _same_area("DRTK", float((visibility() >= 0).sum()), scene)
    return {"visibility": visibility, "whole pass": whole}


def deodr(scene: Scene) -> dict[str, Callable[[], object]]:
    """Colours and a constant one, whose image is the silhouette, anti-aliased at contour edges."""
    from deodr import differentiable_renderer_cython as kernels
    from deodr.differentiable_renderer import Scene2D
    from deodr.triangulated_mesh import TriMeshAdjacencies

    if len(scene.vertices) > 1:
        raise ValueError("DEODR draws one image at a time")
    size = scene.size
    points = scene.vertices[0].double().numpy()
    colours = np.concatenate([scene.attributes[0].double().numpy(), np.ones((len(points), 1))], axis=1)
    corners = scene.faces.numpy().astype(np.uint32)
    adjacencies = TriMeshAdjacencies(corners)
    num_faces, num_colours = len(corners), colours.shape[1]

    def make(channels: int) -> Scene2D:
        return Scene2D(
            faces=corners,
            faces_uv=corners,
            ij=np.ascontiguousarray(points[:, :2]),
            depths=points[:, 2] - points[:, 2].min() + 1,
            textured=np.zeros(num_faces, dtype=bool),
            uv=np.zeros((len(points), 2)),
            shade=np.zeros(len(points)),
            colors=np.ascontiguousarray(colours[:, :channels]),
            shaded=np.zeros(num_faces, dtype=bool),
            edgeflags=np.zeros((num_faces, 3), dtype=bool),
            height=size,
            width=size,
            nb_colors=channels,
            texture=np.zeros((0, 0)),
            background_image=np.zeros((size, size, channels)),
            backface_culling=True,  # its gradients need it; it also draws fewer faces than ours
        )

    image, depth = np.empty((size, size, num_colours)), np.empty((size, size))
    gradient = torch.cat([scene.value_gradient, scene.mask_gradient], 1)[0].permute(1, 2, 0).double()
    gradient = np.ascontiguousarray(gradient.numpy())
    visible, shaded = make(1), make(num_colours)
    single = np.empty((size, size, 1))

    def whole() -> None:
        shaded.edgeflags = adjacencies.edge_on_silhouette(shaded.ij)
        kernels.renderSceneCpp(shaded, 1.0, image, depth)
        for name in ("uv", "ij", "shade", "colors", "texture"):
            setattr(shaded, f"{name}_b", np.zeros(getattr(shaded, name).shape))
        # The backward pass undoes the image that it is given.
        kernels.renderSceneBCpp(shaded, 1.0, image.copy(), depth, gradient)

    whole()
    _same_area("DEODR", float(image[..., -1].sum()), scene)
    return {
        "visibility": lambda: kernels.renderSceneCpp(visible, 0.0, single, depth),
        "whole pass": whole,
    }


def nvdiffrast(scene: Scene) -> dict[str, Callable[[], object]]:
    """On a GPU only; its silhouette is the anti-aliased mask."""
    import nvdiffrast.torch as dr

    context = dr.RasterizeCudaContext()
    size = scene.size

    def clip(vertices: Tensor) -> Tensor:
        ndc = (vertices[..., :2] + 0.5) * (2 / size) - 1
        depth = vertices[..., 2:] / (2 * size)
        return torch.cat([ndc, depth, torch.ones_like(depth)], dim=-1).contiguous()

    def visibility() -> Tensor:
        with torch.no_grad():
            return dr.rasterize(context, clip(scene.vertices), scene.faces, (size, size))[0]

    def whole() -> None:
        vertices, attributes = scene.leaves()
        points = clip(vertices)
        raster, _ = dr.rasterize(context, points, scene.faces, (size, size))
        values, _ = dr.interpolate(attributes, raster, scene.faces)
        hard = (raster[..., 3:] > 0).float()
        silhouette = dr.antialias(hard, raster, points, scene.faces)
        gradients = [scene.value_gradient.permute(0, 2, 3, 1), scene.mask_gradient.permute(0, 2, 3, 1)]
        torch.autograd.backward([values * hard, silhouette], gradients)

    _same_area("nvdiffrast", float((visibility()[..., 3] > 0).sum()), scene)
    return {"visibility": visibility, "whole pass": whole}


def grid_sample(scene: Scene) -> dict[str, Callable[[], object]]:
    """The lookup alone with given coordinates, and after our interpolation of them."""
    ids = get_rasterizer("auto").face_ids(scene.vertices, scene.faces, scene.image_size)
    head, uv_faces = scene.head, scene.head.uv_faces.int()
    uv = interpolate(scene.vertices, scene.faces, ids, head.uvs[None], uv_faces)
    grid = (2 * uv - 1).permute(0, 2, 3, 1).contiguous()
    gradient, plain = scene.value_gradient.contiguous(), scene.texture.contiguous()

    def lookup() -> None:
        texture, coordinates = plain.detach().requires_grad_(), grid.detach().requires_grad_()
        sampled = F.grid_sample(texture, coordinates, padding_mode="border", align_corners=False)
        sampled.backward(gradient)

    return {"texture lookup": lookup}


def memory(scene: Scene) -> dict[str, Callable[[], object]]:
    """Copies of the fewest bytes that a task can read and write: its time if arithmetic were free."""
    mesh = _bytes(scene.vertices, scene.faces)
    pixels = scene.mask_gradient.numel()
    values, texture = _bytes(scene.value_gradient), _bytes(scene.texture)
    layers = int(OFFICIAL["faces_per_pixel"])
    # A 64-bit key per fragment is written and read, a 32-bit index is written.
    visibility = mesh + pixels * (8 + 8 + 4)
    moved = {
        "visibility": visibility,
        # Forward writes values and mask, backward reads their gradients, and the indices are read for each.
        "whole pass": visibility + 2 * values + 4 * pixels * 4 + 3 * (mesh + _bytes(scene.attributes)),
        "soft silhouette": mesh + layers * pixels * (8 + 8 + 3 * 4) + 2 * mesh + 2 * pixels * 4,
        "texture lookup": 2 * values + 4 * texture + 2 * (mesh + pixels * 4),
    }
    return {task: _copy(size, scene.vertices.device) for task, size in moved.items()}


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _copy(num_bytes: int, device: torch.device) -> Callable[[], object]:
    """Half of the bytes are read, half are written."""
    source = torch.ones(num_bytes // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _same_area(peer: str, found: float, scene: Scene) -> None:
    """Raise an error if a peer's image differs from ours."""
    ids = get_rasterizer("auto").face_ids(scene.vertices, scene.faces, scene.image_size)
    expected = float((ids >= 0).sum())
    if abs(found - expected) > 0.02 * expected:
        raise RuntimeError(f"{peer} draws {found:.0f} pixels where we draw {expected:.0f}")


def peers_of(scene: Scene, options: argparse.Namespace) -> tuple[dict[str, Task], dict[str, str]]:
    """Each peer's implementation of the tasks it supports, and the reasons why others are skipped."""
    makers = {"PyTorch3D": pytorch3d, "DRTK": drtk}
    makers |= {"nvdiffrast": nvdiffrast} if options.device == "cuda" else {"DEODR": deodr}
    found, missing = {"bound: memory": memory(scene), "grid_sample": grid_sample(scene)}, {}
    for name, make in makers.items():
        reason = installed(name.lower(), HOW[name.lower()], options)
        if reason is None:
            found[name] = make(scene)
        else:
            missing[name] = reason
    return found, missing


def goals_of(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Target speed-ups over each peer, by task."""
    if options.device == "cuda":
        return {"whole pass": {"PyTorch3D": 5, "nvdiffrast": 1}, "texture lookup": {"grid_sample": 1.5}}
    small = options.size <= 256
    return {
        "visibility": {"PyTorch3D": 1500, "DRTK": 1.5} if small else {},
        "whole pass": {"DEODR": 1.2} | ({"PyTorch3D": 1000} if small else {}),
        "soft silhouette": {"PyTorch3D": 300} if small else {},
        "texture lookup": {"grid_sample": 1.5},
    }


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--head", default="open", help="'open' or a FLAME pickle")
    parser.add_argument("--size", type=int, default=256, help="pixels per side")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scene = make_scene(options.head, options.size, options.batch, options.device)
    peers, missing = peers_of(scene, options)
    where = "GPU" if options.device == "cuda" else f"{options.threads} thread(s)"
    setting = f"{options.batch} x {options.size} px, {len(scene.faces)} faces, {where}"
    goals, figures = goals_of(options), list[Figure]()
    for task, function in ours(scene).items():
        functions = {"ours": function} | {name: side[task] for name, side in peers.items() if task in side}
        known = {name: why for name, why in missing.items() if name in goals.get(task, {})}
        figures.append(figure(task, setting, functions, goals.get(task, {}), known, device=options.device))
    return finish(figures, options)


if __name__ == "__main__":
    sys.exit(main())
