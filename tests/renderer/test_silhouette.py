"""Coverage and the soft silhouette: values, and gradients against true areas."""

from pathlib import Path

import pytest
import torch
from renderer_meshes import bumpy, random_soup, sphere
from safetensors.torch import load_file

from rome_lightning.renderer import OFFICIAL, coverage, get_rasterizer, silhouette, soft_silhouette

SIZE = (48, 56)
GOLDEN = Path(__file__).with_name("golden_pytorch3d.safetensors")


def area(vertices: torch.Tensor, faces: torch.Tensor, factor: int = 24) -> float:
    """Covered area in pixels, counted in an image ``factor`` times as large."""
    enlarged = vertices * factor
    enlarged[..., :2] += (factor - 1) / 2
    size = (SIZE[0] * factor, SIZE[1] * factor)
    ids = get_rasterizer("auto").face_ids(enlarged.float(), faces, size)
    return float((ids >= 0).sum()) / factor**2


def shapes():
    vertices, faces = sphere(15.0, (27.3, 23.6), subdivisions=3)
    square = torch.tensor([[[10.3, 8.2, 0], [40.6, 8.2, 0], [40.6, 35.7, 0], [10.3, 35.7, 0]]])
    turned = torch.tensor([[[27.3, 3.2, 0], [47.1, 22.4, 0], [27.9, 43.9, 0], [8.2, 23.1, 0]]])
    quad = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return {
        "sphere": (vertices, faces),
        "bumpy": (bumpy(vertices, 2.0), faces),
        "open": (vertices, faces[len(faces) // 3 :]),
        "square": (square, quad),
        "turned": (turned, quad),
    }


@pytest.mark.parametrize("name", shapes())
def test_area_and_its_derivative(rasterizer, fused, name):
    """Counting contour edges on both axes would give 1.93 times the derivative; gradcheck cannot see it."""
    vertices, faces = shapes()[name]
    leaf = vertices.clone().requires_grad_()
    total = coverage(leaf, faces, rasterizer.face_ids(leaf, faces, SIZE), fused=fused).sum()
    # Corners of the squares are cut by the pixel pairs: 0.5 % of their area.
    assert total.item() == pytest.approx(area(vertices, faces), rel=5e-3)
    total.backward()
    centre = vertices.mean(1, keepdim=True)
    right = (vertices[..., :1] > centre[..., :1]).float()
    below = (vertices[..., 1:2] > centre[..., 1:2]).float()
    motions = {
        "grow": (vertices - centre) / 15,
        "right side": right * torch.tensor([1.0, 0, 0]),
        "lower side": below * torch.tensor([0, 1.0, 0]),
    }
    for motion in motions.values():
        step = 0.5
        exact = (area(vertices + step * motion, faces) - area(vertices - step * motion, faces)) / (2 * step)
        # Each row or column samples the contour once: about 1 % on 90 contour pixels.
        assert (leaf.grad * motion).sum().item() == pytest.approx(exact, rel=0.04)


def test_translation_does_not_change_the_area(rasterizer, fused):
    vertices, faces = shapes()["bumpy"]
    leaf = vertices.clone().requires_grad_()
    coverage(leaf, faces, rasterizer.face_ids(leaf, faces, SIZE), fused=fused).sum().backward()
    perimeter = leaf.grad.abs().sum()
    assert (leaf.grad.sum(1).abs() < 0.02 * perimeter).all()


def test_follows_motion_by_fractions_of_a_pixel(rasterizer, fused):
    vertices, faces = shapes()["bumpy"]
    steps = 32
    shift = torch.linspace(0, 1, steps + 1)[:, None, None] * torch.tensor([1.0, 0.4, 0])
    moved = vertices + shift
    images = coverage(moved, faces, rasterizer.face_ids(moved, faces, SIZE), fused=fused)
    change = (images[1:] - images[:-1]).abs()
    # A hard mask jumps by 1. Here a pixel jumps only where the contour changes between steep and flat,
    # and the rest moves with the shift, 1/32 pixel per step.
    assert change.mean(0).max() < 2 / steps
    assert (change > 0.25).float().mean() < 1e-3
    totals = images.sum((1, 2, 3))
    assert (totals - totals.mean()).abs().max() < 0.005 * totals.mean()


def test_only_pixels_at_the_contour_are_partly_covered(rasterizer, fused):
    vertices, faces = shapes()["sphere"]
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    image = coverage(vertices, faces, ids, fused=fused)
    hard = (ids >= 0).float()[:, None]
    grown = torch.nn.functional.max_pool2d(hard, 3, 1, 1)
    shrunk = -torch.nn.functional.max_pool2d(-hard, 3, 1, 1)
    assert (image[grown == 0] == 0).all()
    assert (image[shrunk == 1] == 1).all()
    assert ((image - hard).abs() <= 0.5 + 1e-6).float().mean() > 0.995


def test_kernels_mean_the_same_as_torch():
    rasterizer = get_rasterizer("auto")
    if rasterizer.name != "warp":
        pytest.skip("Warp is not installed")
    cases = [random_soup(seed) for seed in range(6)] + [shapes()["bumpy"], shapes()["open"]]
    cases[0] = (cases[0][0].round(), cases[0][1])
    for vertices, faces in cases:
        ids = rasterizer.face_ids(vertices, faces, SIZE)
        contours = [silhouette._coverage(vertices, faces, ids, fused)[2] for fused in (False, True)]
        assert torch.equal(*contours)
        weights = torch.randn(len(vertices), 1, *SIZE, generator=torch.Generator().manual_seed(0))
        for operation in (
            lambda v, fused, faces=faces, ids=ids: coverage(v, faces, ids, fused=fused),
            lambda v, fused, faces=faces: soft_silhouette(v, faces, SIZE, fused=fused),
        ):
            results = []
            for fused in (False, True):
                leaf = vertices.clone().requires_grad_()
                image = operation(leaf, fused)
                (image * weights).sum().backward()
                results.append((image.detach(), leaf.grad))
            torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
            torch.testing.assert_close(results[0][1], results[1][1], atol=1e-3, rtol=1e-3)


@pytest.mark.gradcheck
def test_gradcheck():
    vertices, faces = sphere(4.4, (6.21, 5.73), subdivisions=0)
    ids = get_rasterizer("torch").face_ids(vertices, faces, (12, 13))
    leaf = vertices.double().requires_grad_()
    # Ids are fixed; no crossing of this mesh is within 1e-6 of a centre or a border.
    assert torch.autograd.gradcheck(lambda v: coverage(v, faces, ids), leaf)
    vertices, faces = sphere(2.2, (4.21, 3.73), subdivisions=0)
    leaf = vertices.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: soft_silhouette(v, faces, (8, 9), sigma=1e-2), leaf)


@pytest.mark.parametrize(
    ("name", "settings"), [("official", OFFICIAL), ("wide", {"sigma": 1e-3, "by_depth": True})]
)
def test_soft_silhouette_equals_pytorch3d(fused, name, settings):
    golden = load_file(GOLDEN)
    faces, weights = golden["faces"].long(), golden["weights"].float()
    vertices = golden["vertices_px"].clone().requires_grad_()
    image = soft_silhouette(vertices, faces, tuple(weights.shape[1:]), **settings, fused=fused)[:, 0]
    differs = (image - golden[f"{name}_alpha"]).abs() > 1e-5
    # Neighbouring faces clipped to a shared corner have equal depth; one pixel keeps the other one as tenth.
    assert differs.sum() <= 1
    (image * weights).sum().backward()
    gradient_differs = (vertices.grad - golden[f"{name}_gradient"]).abs().amax(-1) > 1e-3
    assert gradient_differs.sum() <= 6 * int(differs.sum())


def test_official_reach_loses_most_of_the_gradient(fused):
    """Why the default blur radius is 9.21 sigma, and why occupancy weights do not transfer."""
    vertices, faces = sphere(17.0, (24.3, 23.8), subdivisions=3)
    motion = vertices - torch.tensor([24.3, 23.8, 0])
    exact = (area(vertices + 0.03 * motion, faces) - area(vertices - 0.03 * motion, faces)) / 0.06
    slopes = []
    for settings in ({}, OFFICIAL):
        leaf = vertices.clone().requires_grad_()
        soft_silhouette(leaf, faces, SIZE, **settings, fused=fused).sum().backward()
        slopes.append(float((leaf.grad * motion).sum()) / exact)
    assert slopes[0] == pytest.approx(1, abs=0.1)
    assert slopes[0] / slopes[1] > 3


def test_fine_meshes_have_no_holes(fused):
    """With faces much smaller than the blur radius, choosing by depth leaves the inside half transparent."""
    vertices, faces = sphere(15.0, (27.3, 23.6), subdivisions=5)
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(56.0), indexing="ij")
    inside = (columns - 27.3).hypot(rows - 23.6) < 13
    image = soft_silhouette(vertices, faces, SIZE, fused=fused)[0, 0]
    assert image[inside].min() > 0.99
    by_depth = soft_silhouette(vertices, faces, SIZE, by_depth=True, fused=fused)[0, 0]
    assert by_depth[inside].min() < 0.9
