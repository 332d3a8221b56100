"""Textured meshes in one pass, against interpolation followed by lookup."""

import pytest
import torch
from renderer_meshes import random_soup, sphere

from rome_lightning.renderer import get_rasterizer, interpolate, render_texture, sample_texture

SIZE = (23, 31)


def scene(seed: int, batch: int = 3, channels: int = 9, shared: bool = False):
    """Triangles with separate texture coordinates, some beyond the border of the texture."""
    vertices, faces = random_soup(seed, batch)
    generator = torch.Generator().manual_seed(seed)
    uvs = torch.rand(40, 2, generator=generator) * 1.4 - 0.2
    uv_faces = torch.randint(0, 40, faces.shape, generator=generator)
    texture = torch.randn(1 if shared else batch, channels, 16, 16, generator=generator)
    return vertices, faces, uvs, uv_faces, texture


def two_steps(vertices, faces, ids, uvs, uv_faces, texture):
    uv = interpolate(vertices, faces, ids, uvs[None], uv_faces, fused=False)
    return sample_texture(texture, uv) * (ids >= 0)[:, None]


@pytest.mark.parametrize("channels", [1, 3, 5, 8, 10, 13])
@pytest.mark.parametrize("shared", [False, True])
def test_equals_interpolation_and_lookup(rasterizer, fused, channels, shared):
    for seed in range(3):
        vertices, faces, uvs, uv_faces, texture = scene(seed, 3, channels, shared)
        ids = rasterizer.face_ids(vertices, faces, SIZE)
        weights = torch.randn(3, channels, *SIZE, generator=torch.Generator().manual_seed(9))
        results = []
        for function in (two_steps, lambda *inputs: render_texture(*inputs, fused=fused)):
            leaves = vertices.clone().requires_grad_(), texture.clone().requires_grad_()
            image = function(leaves[0], faces, ids, uvs, uv_faces, leaves[1])
            (image * weights).sum().backward()
            results.append((image.detach(), leaves[0].grad, leaves[1].grad))
        torch.testing.assert_close(results[0][0], results[1][0], atol=2e-5, rtol=1e-4)
        # Gradients of slivers are hundreds, sums of many terms in float32.
        scale = results[0][1].abs().max()
        torch.testing.assert_close(results[0][1], results[1][1], atol=float(scale) * 2e-5, rtol=1e-3)
        torch.testing.assert_close(results[0][2], results[1][2], atol=2e-4, rtol=1e-4)


def test_only_what_is_asked_for_gets_gradients(fused):
    vertices, faces, uvs, uv_faces, texture = scene(0)
    ids = get_rasterizer("torch").face_ids(vertices, faces, SIZE)
    expected = []
    for which in ((True, True), (True, False), (False, True)):
        leaves = [vertices.clone().requires_grad_(which[0]), texture.clone().requires_grad_(which[1])]
        image = render_texture(leaves[0], faces, ids, uvs, uv_faces, leaves[1], fused=fused)
        image.square().sum().backward()
        expected.append([leaf.grad for leaf in leaves])
    assert expected[1][1] is None
    assert expected[2][0] is None
    assert torch.equal(expected[1][0], expected[0][0])
    assert torch.equal(expected[2][1], expected[0][1])


@pytest.mark.gradcheck
def test_gradcheck():
    vertices, faces = sphere(5.0, (6.2, 5.7), subdivisions=1)
    ids = get_rasterizer("torch").face_ids(vertices, faces, (12, 13))
    generator = torch.Generator().manual_seed(0)
    uvs = torch.rand(vertices.shape[1], 2, generator=generator, dtype=torch.float64)
    leaves = (
        vertices.double().requires_grad_(),
        torch.randn(1, 2, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True),
    )
    # The ids are fixed; no coordinate is within 1e-6 of a texel's centre.
    assert torch.autograd.gradcheck(lambda v, t: render_texture(v, faces, ids, uvs, faces, t), leaves)


def test_float32_inside_autocast(rasterizer, fused):
    vertices, faces, uvs, uv_faces, texture = scene(1)
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    expected = render_texture(vertices, faces, ids, uvs, uv_faces, texture, fused=fused)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = render_texture(vertices, faces, ids, uvs, uv_faces, texture, fused=fused)
    assert torch.equal(found, expected)
