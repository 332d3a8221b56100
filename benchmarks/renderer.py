"""Times of the renderer and its peers in one run, as ratios of medians.

    python benchmarks/renderer.py [--head open|PATH] [--size 256] [--output FILE.json]

Three tasks on one mesh at 1 x size x size, with one CPU thread: visibility (which face is at each pixel);
the whole differentiable pass (silhouette and six interpolated attributes, forward and backward to
vertices and attributes); and the forward pass of the official
release's soft silhouette. Peers that are not
installed are left out: PyTorch3D has no wheel on PyPI, DEODR comes with ``pip install deodr``. On the
CPU PyTorch3D tests every face at every pixel, so DEODR is the honest anchor there. Times are CPU time
of the process, which other programs on the machine disturb less than wall time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rome_lightning.data import HeadParams
from rome_lightning.geometry import project
from rome_lightning.head import load_head
from rome_lightning.renderer import (
    OFFICIAL,
    available_rasterizers,
    coverage,
    get_rasterizer,
    interpolate,
    soft_silhouette,
)

Tasks = dict[str, dict[str, Callable[[], object]]]


def posed_head(name: str, size: int) -> tuple[Tensor, Tensor]:
    """The mean head, turned a little, in an image that it fills."""
    head = load_head(name)
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    world = head.to_world(head(params), params)
    rotated = world @ torch.tensor([[0.94, 0.0, -0.34], [0.0, 1.0, 0.0], [0.34, 0.0, 0.94]])
    low, high = rotated.amin(1)[:, :2], rotated.amax(1)[:, :2]
    scale = 1.8 / (high - low).amax()
    camera = torch.cat([scale.view(1, 1), -(low + high) / 2], dim=1)
    return project(rotated, camera, (size, size)), head.faces


def median_ms(function: Callable[[], object], budget_s: float = 4.0) -> float:
    """Median CPU time, from as many runs as fit the budget, at least one after warming up."""
    start = time.process_time()
    function()
    if time.process_time() - start < 1:
        function()
    times: list[float] = []
    while not times or (sum(times) < budget_s and len(times) < 50):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def our_tasks(vertices: Tensor, faces: Tensor, size: int, attributes: Tensor) -> Tasks:
    image_size = (size, size)
    tasks: Tasks = {"visibility": {}, "whole pass": {}, "official soft silhouette": {}}
    names = [name for name in ("warp", "torch") if available_rasterizers()[name] == "ok"]
    for name in names:
        rasterizer, fused = get_rasterizer(name), name == "warp"

        def whole(rasterizer=rasterizer, fused=fused) -> None:
            leaves = vertices.clone().requires_grad_(), attributes.clone().requires_grad_()
            ids = rasterizer.face_ids(leaves[0], faces, image_size)
            values = interpolate(leaves[0], faces, ids, leaves[1], fused=fused)
            (values.sum() + coverage(leaves[0], faces, ids, fused=fused).sum()).backward()

        def soft(fused=fused) -> None:
            leaf = vertices.clone().requires_grad_()
            soft_silhouette(leaf, faces, image_size, **OFFICIAL, fused=fused).sum()

        tasks["visibility"][f"ours, {name}"] = lambda rasterizer=rasterizer: rasterizer.face_ids(
            vertices, faces, image_size
        )
        tasks["whole pass"][f"ours, {name}"] = whole
        tasks["official soft silhouette"][f"ours, {name}"] = soft
    return tasks


def add_pytorch3d(tasks: Tasks, vertices: Tensor, faces: Tensor, size: int, attributes: Tensor) -> None:
    """The whole pass is the release's: soft silhouette with ten faces, hard raster, interpolation."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    from rome_lightning.renderer.pytorch3d_rasterizer import to_pytorch3d_ndc

    rasterizer = get_rasterizer("pytorch3d")
    sigma, blur, layers = (OFFICIAL[key] for key in ("sigma", "blur_radius", "faces_per_pixel"))

    def soft(leaf: Tensor) -> Tensor:
        mesh = Meshes(to_pytorch3d_ndc(leaf, (size, size)), faces[None])
        ids, _, _, distance = rasterize_meshes(
            mesh, (size, size), blur_radius=blur, faces_per_pixel=layers, clip_barycentric_coords=True
        )
        return 1 - (1 - torch.sigmoid(-distance / sigma) * (ids >= 0)).prod(-1)

    def whole() -> None:
        leaves = vertices.clone().requires_grad_(), attributes.clone().requires_grad_()
        mesh = Meshes(to_pytorch3d_ndc(leaves[0], (size, size)), faces[None])
        ids, _, weights, _ = rasterize_meshes(mesh, (size, size), faces_per_pixel=1)
        corners = leaves[1][0][faces[ids[..., 0].clamp_min(0)]]
        values = (corners * weights[..., 0, :, None]).sum(-2) * (ids >= 0)
        (values.sum() + soft(leaves[0]).sum()).backward()

    tasks["visibility"]["PyTorch3D"] = lambda: rasterizer.face_ids(vertices, faces, (size, size))
    tasks["whole pass"]["PyTorch3D"] = whole
    tasks["official soft silhouette"]["PyTorch3D"] = lambda: soft(vertices.clone().requires_grad_()).sum()


def add_deodr(tasks: Tasks, vertices: Tensor, faces: Tensor, size: int, attributes: Tensor) -> None:
    """Six colours and a constant one, whose image is the silhouette, anti-aliased at contour edges."""
    from deodr import differentiable_renderer_cython as kernels
    from deodr.differentiable_renderer import Scene2D
    from deodr.triangulated_mesh import TriMeshAdjacencies

    points = vertices[0].double().numpy()
    colours = np.concatenate([attributes[0].double().numpy(), np.ones((len(points), 1))], axis=1)
    corners = faces.numpy().astype(np.uint32)
    adjacencies = TriMeshAdjacencies(corners)
    num_faces, num_colours = len(corners), colours.shape[1]

    def scene(channels: int) -> Scene2D:
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
    gradient = np.ones_like(image)
    visible, shaded = scene(1), scene(num_colours)
    single = np.empty((size, size, 1))

    def whole() -> None:
        shaded.edgeflags = adjacencies.edge_on_silhouette(shaded.ij)
        kernels.renderSceneCpp(shaded, 1.0, image, depth)
        for name in ("uv", "ij", "shade", "colors", "texture"):
            setattr(shaded, f"{name}_b", np.zeros(getattr(shaded, name).shape))
        kernels.renderSceneBCpp(shaded, 1.0, image.copy(), depth, gradient)

    tasks["visibility"]["DEODR"] = lambda: kernels.renderSceneCpp(visible, 0.0, single, depth)
    tasks["whole pass"]["DEODR"] = whole
    whole()
    rendered = float(image[..., -1].sum())
    ids = get_rasterizer("auto").face_ids(vertices, faces, (size, size))
    expected = float(coverage(vertices, faces, ids).sum())
    if abs(rendered - expected) > 0.02 * expected:
        raise RuntimeError(f"DEODR draws {rendered:.0f} pixels where we draw {expected:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--head", default="open", help="'open' or a FLAME pickle")
    parser.add_argument("--size", type=int, default=256, help="pixels per side")
    parser.add_argument("--output", type=Path, help="write the results there as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vertices, faces = posed_head(arguments.head, arguments.size)
    attributes = torch.randn(1, vertices.shape[1], 6, generator=torch.Generator().manual_seed(0))
    scene = (vertices, faces, arguments.size, attributes)
    tasks = our_tasks(*scene)
    if importlib.util.find_spec("deodr"):
        add_deodr(tasks, *scene)
    if available_rasterizers()["pytorch3d"] == "ok":
        add_pytorch3d(tasks, *scene)
    results = {
        task: {peer: median_ms(function) for peer, function in peers.items()} for task, peers in tasks.items()
    }
    ids = get_rasterizer("auto").face_ids(vertices, faces, (arguments.size, arguments.size))
    share = (ids >= 0).float().mean().item()
    pixels = f"1 x {arguments.size} x {arguments.size} pixels"
    print(f"{len(faces)} faces, {share:.0%} of {pixels} covered, one thread\n")
    print("| task | implementation | CPU ms | times ours |\n|---|---|---|---|")
    for task, peers in results.items():
        best = next(iter(peers.values()))
        for peer, duration in peers.items():
            print(f"| {task} | {peer} | {duration:.2f} | {duration / best:.2f} |")
    record = {"faces": len(faces), "size": arguments.size, "covered": share, "cpu_ms": results}
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    else:
        print("\n" + json.dumps(record))


if __name__ == "__main__":
    main()
