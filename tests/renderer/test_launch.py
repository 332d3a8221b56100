"""Batches that threads share, and memory that stays where it was."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    kept = torch.get_num_threads()
    yield
    torch.set_num_threads(kept)


def everything(vertices: torch.Tensor, faces: torch.Tensor) -> list[torch.Tensor]:
    """Pictures of all operations and their gradients."""
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


@pytest.mark.parametrize("num_threads", [2, 3, 8])
def test_threads_change_nothing(num_threads):
    """Each image is drawn by one thread, so that sums keep their order."""
    vertices, faces = random_soup(3, batch=5)
    torch.set_num_threads(1)
    expected = everything(vertices, faces)
    torch.set_num_threads(num_threads)
    for _ in range(3):
        for one, other in zip(everything(vertices, faces), expected, strict=True):
            assert torch.equal(one, other)


def test_a_forked_process_has_threads_of_its_own():
    """Data loaders fork; the threads of their parent are not there."""
    code = """
import os, torch, torch.multiprocessing as mp
from rome_lightning.geometry import vertex_normals
torch.set_num_threads(2)
vertices, faces = torch.rand(4, 9, 3), torch.randint(9, (20, 3))
expected = vertex_normals(vertices, faces)
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    os._exit(0 if torch.equal(vertex_normals(vertices, faces), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False, env=environment)
    assert done.returncode == 0


@pytest.mark.slow
def test_memory_does_not_grow_over_10000_steps():
    vertices, faces = sphere(9.0, (15.2, 11.7))
    vertices = torch.cat([vertices, bumpy(vertices, 1.0)])
    for step in range(10_000):
        everything(vertices, faces)
        if step == 1000:
            start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes; a kilobyte lost in every step would be nine thousand.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 4000
