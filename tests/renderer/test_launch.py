"""All operations together: results do not depend on threads, and memory does not grow."""

import resource

import pytest
import torch
from renderer_meshes import bumpy, random_soup, sphere

from rome_lightning.acceleration import warp_status
from rome_lightning.geometry import vertex_normals
from rome_lightning.renderer import (
    coverage,
    extend_outside,
    get_rasterizer,
    interpolate,
    render_texture,
    soft_silhouette,
)

pytestmark = pytest.mark.skipif(warp_status() != "ok", reason=f"needs Warp: {warp_status()}")
SIZE = (23, 31)


def everything(vertices: torch.Tensor, faces: torch.Tensor) -> list[torch.Tensor]:
    """Images of all operations and their gradients."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(len(vertices), 3, 8, 8, generator=generator).requires_grad_()
    uvs = torch.rand(vertices.shape[1], 2, generator=generator)
    leaf = vertices.clone().requires_grad_()
    ids = get_rasterizer("warp").face_ids(leaf, faces, SIZE)
    values = interpolate(leaf, faces, ids, vertex_normals(leaf, faces))
    shared = interpolate(leaf, faces, ids, uvs[None])
    extended, distance = extend_outside(values, ids[:, None] >= 0)
    images = [
        ids, values, shared, extended, distance, coverage(leaf, faces, ids),
        soft_silhouette(leaf, faces, SIZE), render_texture(leaf, faces, ids, uvs, faces, texture),
    ]  # fmt: skip
    sum(image.sin().sum() for image in images[1:]).backward()
    return [*(image.detach() for image in images), leaf.grad, texture.grad]


@pytest.mark.parametrize("torch_threads", [2, 3, 8], indirect=True)
def test_threads_change_nothing(torch_threads):
    """Each image is rendered by one thread, so the order of summation is fixed."""
    vertices, faces = random_soup(3, batch=5)
    torch.set_num_threads(1)
    expected = everything(vertices, faces)
    torch.set_num_threads(torch_threads)
    for _ in range(3):
        for one, other in zip(everything(vertices, faces), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_memory_does_not_grow_over_10000_steps():
    vertices, faces = sphere(9.0, (15.2, 11.7))
    vertices = torch.cat([vertices, bumpy(vertices, 1.0)])
    for step in range(10_000):
        everything(vertices, faces)
        if step == 1000:
            start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes; a leak of one per step would add up to nine thousand.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 4000
