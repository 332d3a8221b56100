"""Input that would make kernels access memory out of bounds raises ValueError, in every backend."""

from __future__ import annotations

import pytest
import torch
from renderer_meshes import sphere
from torch import Tensor

from rome_lightning.acceleration import has_kernels
from rome_lightning.geometry import vertex_normals
from rome_lightning.renderer import coverage, get_rasterizer, interpolate, render_texture, soft_silhouette
from rome_lightning.renderer.mesh_check import bad_vertices_tolerated
from rome_lightning.renderer.nearest_fill import extend_outside

SIZE = (20, 24)
_WARP = pytest.mark.skipif(not has_kernels(torch.zeros(1)), reason="needs warp")
FUSED = pytest.mark.parametrize("fused", [False, pytest.param(True, marks=_WARP)])


def _mesh(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    vertices, faces = sphere(7.0, (12.2, 9.7), subdivisions=1)
    vertices = vertices.repeat(batch, 1, 1)
    ids = get_rasterizer("torch").face_ids(vertices, faces, SIZE) if batch else torch.zeros(0, *SIZE).int()
    return vertices, faces, ids


def _draw(vertices: Tensor, faces: Tensor, ids: Tensor, fused: bool) -> dict[str, object]:
    """Every operation on meshes, as a function."""
    uvs = torch.rand(vertices.shape[1], 2, generator=torch.Generator().manual_seed(0))
    texture = torch.ones(1, 3, 8, 8)
    return {
        "face_ids": lambda: get_rasterizer("warp" if fused else "torch").face_ids(vertices, faces, SIZE),
        "interpolate": lambda: interpolate(vertices, faces, ids, torch.ones_like(vertices), fused=fused),
        "render_texture": lambda: render_texture(vertices, faces, ids, uvs, faces, texture, fused),
        "coverage": lambda: coverage(vertices, faces, ids, fused),
        "soft": lambda: soft_silhouette(vertices, faces, SIZE, fused=fused),
        "soft by depth": lambda: soft_silhouette(vertices, faces, SIZE, by_depth=True, fused=fused),
    }


OPERATIONS = pytest.mark.parametrize("name", list(_draw(*_mesh(), False)))


@FUSED
@OPERATIONS
@pytest.mark.parametrize("index", [-1, 42, 2**31 - 1, -(2**31)])
def test_faces_outside_of_the_vertices(name, fused, index):
    vertices, faces, ids = _mesh()
    faces = faces.clone()
    faces[3, 1] = index
    with pytest.raises(ValueError, match=rf"faces must be from 0 to 41, got .*{index}"):
        _draw(vertices, faces, ids, fused)[name]()


@FUSED
@OPERATIONS
def test_an_empty_batch(name, fused):
    with pytest.raises(ValueError, match=r"at least 1.* 0 of vertices_px"):
        _draw(*_mesh(0), fused)[name]()


@FUSED
@OPERATIONS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e19, -1e30, 3e38])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_coordinates_that_no_image_has(name, fused, value, axis):
    vertices, faces, ids = _mesh()
    vertices[1, 5, axis] = value
    draw = _draw(vertices, faces, ids, fused)[name]
    with pytest.raises(ValueError, match=r"vertices_px must be finite .* got 1 vertices"):
        draw()
    with bad_vertices_tolerated() as verdicts:
        assert draw().float().isfinite().all()
    assert not any(verdicts)


@FUSED
@pytest.mark.parametrize("name", ["interpolate", "render_texture", "coverage"])
@pytest.mark.parametrize("value", [-2, 80, 2**31 - 1])
def test_visible_faces_that_do_not_exist(name, fused, value):
    vertices, faces, ids = _mesh()
    ids[1, 4, 4] = value
    with pytest.raises(ValueError, match="face_ids must be from -1 to 79"):
        _draw(vertices, faces, ids, fused)[name]()


@FUSED
@pytest.mark.parametrize("name", ["interpolate", "render_texture", "coverage"])
def test_batches_that_do_not_go_together(name, fused):
    vertices, faces, ids = _mesh(3)
    with pytest.raises(ValueError, match="at least 1, got 3 of vertices_px, 2 of face_ids"):
        _draw(vertices, faces, ids[:2], fused)[name]()


@FUSED
def test_gradients_stay_finite_where_bad_vertices_are_tolerated(fused):
    for name in ("interpolate", "render_texture", "coverage", "soft"):
        vertices, faces, ids = _mesh()
        vertices[1, 5, 0] = float("nan")
        vertices.requires_grad_(True)
        with bad_vertices_tolerated():
            _draw(vertices, faces, ids, fused)[name]().sum().backward()
        assert vertices.grad[0].isfinite().all()


@FUSED
def test_attributes_and_texture_coordinates_that_do_not_exist(fused):
    vertices, faces, ids = _mesh()
    with pytest.raises(ValueError, match="attribute_faces must be from 0 to 40"):
        interpolate(vertices, faces, ids, vertices[:, :-1], fused=fused)
    with pytest.raises(ValueError, match="attribute_faces must have 80 rows"):
        interpolate(vertices, faces, ids, vertices, faces[:-1], fused=fused)
    texture = torch.ones(1, 3, 8, 8)
    with pytest.raises(ValueError, match="faces must be from 0 to 2"):
        render_texture(vertices, faces, ids, torch.rand(3, 2), faces, texture, fused)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
@pytest.mark.parametrize("backend", ["torch", "release", pytest.param("warp", marks=_WARP)])
def test_images_without_pixels(backend, size):
    vertices, faces, _ = _mesh()
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel"):
        get_rasterizer(backend).face_ids(vertices, faces, size)


@_WARP
def test_normals_of_faces_that_do_not_exist():
    vertices, faces, _ = _mesh()
    with pytest.raises(ValueError, match="faces must be from 0 to 40"):
        vertex_normals(vertices[:, :-1], faces, fused=True)
    with pytest.raises(ValueError, match="at least 1"):
        vertex_normals(vertices[:0], faces, fused=True)


def test_nearest_fill_of_nothing():
    with pytest.raises(ValueError, match="at least 1"):
        extend_outside(torch.zeros(0, 3, 4, 4), torch.zeros(0, 1, 4, 4, dtype=torch.bool))
