"""Face ids against an independent brute force, and properties that every backend must have."""

import numpy as np
import pytest
import torch
from renderer_meshes import bumpy, random_soup, sphere

from rome_lightning.renderer import Rasterizer, available_rasterizers, get_rasterizer

SIZE = (23, 31)


def brute_force(vertices: np.ndarray, faces: np.ndarray, size: tuple[int, int], cull: bool = False):
    """Edge functions with the top-left rule at every pixel, in float64.

    Returns ids and, per pixel, the gap in depth to the second nearest face.
    """
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float64)
    nearest = np.full(size, np.inf)
    second = np.full(size, np.inf)
    ids = np.full(size, -1)
    for index, face in enumerate(faces):
        a, b, c = vertices[face].astype(np.float64)
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0 or (cull and area > 0):
            continue
        if area < 0:
            b, c = c, b
        inside = np.ones(size, dtype=bool)
        weights = []
        for start, end in ((b, c), (c, a), (a, b)):
            dx, dy = end[0] - start[0], end[1] - start[1]
            value = dx * (rows - start[1]) - dy * (columns - start[0])
            top_left = dy < 0 or (dy == 0 and dx > 0)
            inside &= (value >= 0) if top_left else (value > 0)
            weights.append(value)
        depth = (weights[0] * a[2] + weights[1] * b[2] + weights[2] * c[2]) / abs(area)
        closer = inside & (depth < nearest)
        second = np.where(closer, nearest, np.where(inside, np.minimum(second, depth), second))
        nearest = np.where(closer, depth, nearest)
        ids[closer] = index
    with np.errstate(invalid="ignore"):
        return ids, second - nearest


def assert_equals_brute_force(rasterizer, vertices, faces, size=SIZE, cull=False):
    ids = rasterizer.face_ids(vertices, faces, size, cull).numpy()
    for image, points in zip(ids, vertices.numpy(), strict=True):
        expected, gap = brute_force(points, faces.numpy(), size, cull)
        # Depths closer than float32 can resolve may go either way; coverage may not.
        clear = ~(gap < 1e-5)
        assert np.array_equal(image >= 0, expected >= 0)
        assert np.array_equal(image[clear], expected[clear])
        assert clear.mean() > 0.5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cull", [False, True])
def test_random_triangles(rasterizer, seed, cull):
    vertices, faces = random_soup(seed, scale=[1.0, 8.0, 40.0][seed % 3])
    assert_equals_brute_force(rasterizer, vertices, faces, cull=cull)


@pytest.mark.parametrize("grid", [1.0, 0.5, 0.25])
def test_vertices_and_edges_on_pixel_centres(rasterizer, grid):
    vertices, faces = random_soup(11)
    vertices[..., :2] = (vertices[..., :2] / grid).round() * grid
    assert_equals_brute_force(rasterizer, vertices, faces)


def test_slivers(rasterizer):
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(1, 60, 3, generator=generator) * 30
    end = torch.rand(1, 60, 3, generator=generator) * 30
    third = start + (end - start) * torch.rand(1, 60, 1, generator=generator)
    third = third + 1e-3 * torch.randn(1, 60, 3, generator=generator)
    vertices = torch.stack([start, end, third], dim=2).flatten(1, 2)
    assert_equals_brute_force(rasterizer, vertices, torch.arange(180).view(-1, 3))


def test_open_mesh_and_batch(rasterizer):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    vertices = torch.cat([bumpy(vertices, amplitude) for amplitude in (0.0, 1.0, 2.0)])
    faces = faces[: len(faces) * 2 // 3]
    assert_equals_brute_force(rasterizer, vertices, faces)
    together = rasterizer.face_ids(vertices, faces, SIZE)
    for i in range(3):
        assert torch.equal(together[i : i + 1], rasterizer.face_ids(vertices[i : i + 1], faces, SIZE))


def test_degenerate_faces_draw_nothing(rasterizer):
    vertices = torch.tensor([[[2.0, 2.0, 0.0], [10.0, 10.0, 0.0], [6.0, 6.0, 0.0], [3.0, 9.0, 0.0]]])
    faces = torch.tensor([[0, 1, 2], [0, 0, 3], [3, 3, 3]])
    assert (rasterizer.face_ids(vertices, faces, SIZE) == -1).all()


def test_no_faces_and_nothing_on_screen(rasterizer):
    vertices, faces = sphere(5.0, (500.0, -400.0))
    assert (rasterizer.face_ids(vertices, faces, SIZE) == -1).all()
    assert (rasterizer.face_ids(vertices, faces[:0], SIZE) == -1).all()


def test_depth_of_either_sign_is_in_front(rasterizer):
    """A weak-perspective camera has no near plane, and z only orders the faces."""
    vertices, faces = sphere(9.0, (15.2, 11.7))
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    for shift in (-1000.0, 1000.0):
        moved = vertices + torch.tensor([0.0, 0.0, shift])
        assert torch.equal(rasterizer.face_ids(moved, faces, SIZE), ids)


@pytest.mark.parametrize("seed", range(4))
def test_fan_that_fills_the_image_covers_each_pixel_once(rasterizer, seed):
    """Neighbouring faces neither overlap nor leave gaps, whichever way their shared edge runs."""
    generator = torch.Generator().manual_seed(seed)
    hub = torch.rand(2, generator=generator) * 20
    if seed % 2:
        hub = hub.round()
    ring = torch.tensor([[-9.0, -9.0], [60.0, -9.0], [60.0, 50.0], [-9.0, 50.0]])
    points = torch.cat([torch.cat([hub[None], ring]), torch.zeros(5, 1)], dim=1)[None]
    faces = torch.tensor([[0, 1, 2], [0, 3, 2], [0, 3, 4], [4, 1, 0]])
    counts = sum((rasterizer.face_ids(points, face[None], SIZE) >= 0).int() for face in faces)
    assert (counts == 1).all()


def test_backends_are_bit_equal():
    if available_rasterizers()["warp"] != "ok":
        pytest.skip(available_rasterizers()["warp"])
    reference, fast = get_rasterizer("torch"), get_rasterizer("warp")
    for seed in range(20):
        vertices, faces = random_soup(seed, scale=[1.0, 8.0, 40.0][seed % 3])
        vertices = vertices.round() if seed % 4 == 0 else vertices
        for cull in (False, True):
            assert torch.equal(
                reference.face_ids(vertices, faces, SIZE, cull), fast.face_ids(vertices, faces, SIZE, cull)
            )
    vertices, faces = sphere(50.0, (64.3, 63.1), subdivisions=5)
    size = (128, 128)
    assert torch.equal(reference.face_ids(vertices, faces, size), fast.face_ids(vertices, faces, size))


def test_pytorch3d_agrees_on_all_but_edge_pixels():
    if available_rasterizers()["pytorch3d"] != "ok":
        pytest.skip("PyTorch3D is not installed")
    vertices, faces = sphere(14.0, (19.3, 23.6), subdivisions=3)
    vertices = torch.cat([vertices, bumpy(vertices, 1.5)])
    ours = get_rasterizer("torch").face_ids(vertices, faces, (48, 40))
    theirs = get_rasterizer("pytorch3d").face_ids(vertices, faces, (48, 40))
    # Their float32 edge functions decide differently where an edge passes through a centre.
    assert (ours != theirs).float().mean() < 1e-3


def test_half_precision_is_cast_up(rasterizer):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    vertices = vertices.bfloat16()
    ids = rasterizer.face_ids(vertices, faces, SIZE)
    assert torch.equal(ids, rasterizer.face_ids(vertices.float(), faces, SIZE))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_vertices_that_are_not_finite_raise(rasterizer, bad):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    vertices[0, 7, 1] = bad
    with pytest.raises(ValueError, match="1 vertices with NaN"):
        rasterizer.face_ids(vertices, faces, SIZE)


def test_wrong_shapes_raise(rasterizer: Rasterizer):
    vertices, faces = sphere(9.0, (15.2, 11.7))
    with pytest.raises(ValueError, match=r"\(batch, vertices, 3\)"):
        rasterizer.face_ids(vertices[0], faces, SIZE)
    with pytest.raises(ValueError, match=r"faces must have shape"):
        rasterizer.face_ids(vertices, faces[:, :2], SIZE)


def test_unknown_and_missing_backends_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="known: auto, warp, torch, release, pytorch3d"):
        get_rasterizer("opengl")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"INSTALL\.md"):
        get_rasterizer("pytorch3d")


@pytest.mark.gpu
def test_cuda_equals_cpu(rasterizer):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    vertices, faces = sphere(50.0, (64.3, 63.1), subdivisions=5)
    on_cpu = rasterizer.face_ids(vertices, faces, (128, 128))
    on_gpu = rasterizer.face_ids(vertices.cuda(), faces.cuda(), (128, 128))
    assert torch.equal(on_cpu, on_gpu.cpu())
