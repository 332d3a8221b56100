"""Interpolation against barycentric coordinates solved pixel by pixel, and its gradients."""

from pathlib import Path

import pytest
import torch
from renderer_meshes import bumpy, random_soup, sphere
from safetensors.torch import load_file

from rome_lightning.renderer import get_rasterizer, interpolate

SIZE = (23, 31)
GOLDEN = Path(__file__).with_name("golden_pytorch3d.safetensors")


def solved(vertices, faces, ids, attributes, attribute_faces):
    """Solve for the weights of each pixel as a 3 x 3 system in float64."""
    image = torch.zeros(len(ids), attributes.shape[-1], *ids.shape[1:], dtype=torch.float64)
    for b, row, column in (ids >= 0).nonzero().tolist():
        face = int(ids[b, row, column])
        corners = vertices[b, faces[face], :2].double()
        system = torch.cat([corners.T, torch.ones(1, 3, dtype=torch.float64)])
        weights = torch.linalg.solve(system, torch.tensor([column, row, 1.0], dtype=torch.float64))
        values = attributes[min(b, len(attributes) - 1), attribute_faces[face]].double()
        image[b, :, row, column] = weights @ values
    return image


def test_equals_solved_weights(rasterizer, fused):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    vertices = torch.cat([vertices, bumpy(vertices, 1.0)])
    generator = torch.Generator().manual_seed(0)
    corner_data = torch.randn(1, 50, 4, generator=generator)
    corner_faces = torch.randint(0, 50, faces.shape, generator=generator)
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    image = interpolate(vertices, faces, ids, corner_data, corner_faces, fused=fused)
    # Faces are 2 pixels wide: float32 weights are accurate to 1e-5.
    expected = solved(vertices, faces, ids, corner_data, corner_faces)
    torch.testing.assert_close(image.double(), expected, atol=1e-4, rtol=1e-4)
    assert (image[:, 0][ids < 0] == 0).all()


def test_positions_interpolate_to_pixel_centres(rasterizer, fused):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    xy = interpolate(vertices, faces, ids, vertices[..., :2], fused=fused)
    rows, columns = torch.meshgrid(torch.arange(23.0), torch.arange(31.0), indexing="ij")
    covered = ids[0] >= 0
    # Slivers at the limb lose some digits of their weights.
    torch.testing.assert_close(xy[0, 0][covered], columns[covered], atol=1e-3, rtol=0)
    torch.testing.assert_close(xy[0, 1][covered], rows[covered], atol=1e-3, rtol=0)


def test_batches_of_one_are_shared(rasterizer, fused):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    attributes = torch.randn(3, vertices.shape[1], 2, generator=torch.Generator().manual_seed(0))

    def run(*tensors):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        interpolate(leaves[0], faces, ids, leaves[1], fused=fused).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    shared = run(vertices, attributes)
    single = [run(vertices, attributes[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(shared[0], sum(item[0] for item in single), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shared[1], torch.cat([item[1] for item in single]))


def test_kernels_mean_the_same_as_torch():
    rasterizer = get_rasterizer("auto")
    if rasterizer.name != "warp":
        pytest.skip("Warp is not installed")
    for seed in range(5):
        vertices, faces = random_soup(seed)
        ids = rasterizer.face_ids(vertices, faces, SIZE)
        attributes = torch.randn(1, vertices.shape[1], 5, generator=torch.Generator().manual_seed(seed))
        weights = torch.randn(3, 5, *SIZE, generator=torch.Generator().manual_seed(seed + 1))
        results = []
        for fused in (False, True):
            leaves = [vertices.clone().requires_grad_(), attributes.clone().requires_grad_()]
            image = interpolate(leaves[0], faces, ids, leaves[1], fused=fused)
            (image * weights).sum().backward()
            results.append((image.detach(), leaves[0].grad, leaves[1].grad))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


@pytest.mark.gradcheck
def test_gradcheck():
    vertices, faces = sphere(5.0, (6.2, 5.7), subdivisions=1)
    ids = get_rasterizer("torch").face_ids(vertices, faces, (12, 13))
    attributes = torch.randn(1, vertices.shape[1], 2, generator=torch.Generator().manual_seed(0))
    leaves = (vertices.double().requires_grad_(), attributes.double().requires_grad_())
    # The ids are fixed, so the function is smooth in the vertices.
    assert torch.autograd.gradcheck(lambda v, a: interpolate(v, faces, ids, a), leaves)


def test_gradient_equals_pytorch3d(fused):
    golden = load_file(GOLDEN)
    faces, ids = golden["faces"].long(), golden["ids"].int()
    assert torch.equal(
        get_rasterizer("torch").face_ids(golden["vertices_px"], faces, tuple(ids.shape[1:])), ids
    )
    vertices = golden["vertices_px"].clone().requires_grad_()
    image = interpolate(vertices, faces, ids, golden["attributes"][None], fused=fused)
    (image.permute(0, 2, 3, 1) * golden["channel_weights"]).sum().backward()
    # Both in float32 with different formulas; gradients are up to 5.
    torch.testing.assert_close(vertices.grad, golden["values_gradient"], atol=3e-4, rtol=1e-3)


def test_float32_inside_autocast(rasterizer, fused):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    expected = interpolate(vertices, faces, ids, vertices, fused=fused)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(interpolate(vertices, faces, ids, vertices, fused=fused), expected)
        low = interpolate(vertices, faces, ids, vertices.bfloat16(), fused=fused)
    assert low.dtype == torch.float32
