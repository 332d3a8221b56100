"""Normals of meshes, against sums over faces in a loop, and their gradients."""

import pytest
import torch

from rome_lightning.acceleration import warp_status
from rome_lightning.geometry import mesh, rotate_about, vertex_normals


@pytest.fixture(params=[False, True])
def fused(request: pytest.FixtureRequest) -> bool:
    if request.param and warp_status() != "ok":
        pytest.skip(warp_status())
    return request.param


def tangle(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two meshes of one topology: folded triangles, one without area and one vertex without a triangle."""
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randint(0, 19, (40, 3), generator=generator)
    faces[3, 1] = faces[3, 0]
    return torch.randn(2, 20, 3, generator=generator), faces


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_edges_are_unique_and_sorted(dtype):
    faces = tangle()[1].to(dtype)
    wanted = {
        tuple(sorted((face[i], face[j]))) for face in faces.tolist() for i, j in ((0, 1), (1, 2), (2, 0))
    }
    assert mesh.unique_edges(faces).tolist() == sorted(map(list, wanted))
    assert mesh.unique_edges(faces).dtype == dtype
    assert mesh.unique_edges(faces[:0]).shape == (0, 2)


def test_normals_are_sums_over_faces(fused):
    vertices, faces = tangle()
    sums = torch.zeros(2, 20, 3, dtype=torch.float64)
    points = vertices.double()
    for image in range(2):
        for i, j, k in faces.tolist():
            a, b, c = points[image, [i, j, k]]
            normal = torch.linalg.cross(b - a, c - a)
            for corner in (i, j, k):
                sums[image, corner] += normal
    expected = sums / sums.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    found = vertex_normals(vertices, faces, fused=fused)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
    assert (found[:, 19] == 0).all()


def test_gradient_is_that_of_double_precision(fused):
    vertices, faces = tangle(1)
    weights = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(2))
    gradients = []
    for leaf in (vertices.clone().requires_grad_(), vertices.double().requires_grad_()):
        (vertex_normals(leaf, faces, fused=fused and leaf.dtype == torch.float32) * weights).sum().backward()
        gradients.append(leaf.grad.double())
    scale = float(gradients[1].abs().max())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.gradcheck
def test_gradcheck():
    vertices, faces = tangle(3)
    leaf = vertices[:1].double().requires_grad_()
    # The vertex without a face stays at 0 thanks to a constant far below any length here.
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, faces), leaf)


def test_operator_is_registered_correctly():
    if warp_status() != "ok":
        pytest.skip(warp_status())
    vertices, faces = tangle()
    operator = torch.ops.rome_lightning.vertex_normals.default
    torch.library.opcheck(operator, (vertices.requires_grad_(), faces))


def test_exported_programs_hold_no_operator_of_ours():
    """Normals can be exported to ONNX."""

    class Normals(torch.nn.Module):
        def forward(self, vertices, faces):
            return vertex_normals(vertices, faces)

    program = torch.export.export(Normals(), tangle())
    assert "rome_lightning" not in str(program.graph)
    torch.testing.assert_close(program.module()(*tangle()), vertex_normals(*tangle()), atol=1e-5, rtol=0)


def test_kernels_of_other_modules_are_refused_without_warp(monkeypatch):
    monkeypatch.setattr("rome_lightning.acceleration.warp_status", lambda: "no module named warp")
    from rome_lightning import acceleration

    with pytest.raises(ImportError, match="need Warp: no module named warp"):
        acceleration.kernels.__wrapped__("geometry")


def test_rotation_keeps_its_centre_and_all_distances():
    generator = torch.Generator().manual_seed(0)
    points, rotation = torch.randn(3, 10, 3, generator=generator), torch.randn(3, 3, generator=generator)
    centre = points[:, 9]
    turned = rotate_about(points, rotation, centre)
    torch.testing.assert_close(turned[:, 9], centre, atol=1e-5, rtol=0)
    distances = [torch.cdist(item.double(), item.double()) for item in (turned, points)]
    torch.testing.assert_close(*distances, atol=1e-5, rtol=0)
    assert (turned - points).abs().max() > 0.1


def test_a_square_seen_counter_clockwise_points_at_the_viewer():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    expected = torch.tensor([0.0, 0.0, 1.0]).expand(1, 4, 3)
    torch.testing.assert_close(vertex_normals(vertices, faces), expected)
    torch.testing.assert_close(mesh.face_normals(vertices, faces), expected[:, :2])
