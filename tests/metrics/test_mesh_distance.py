import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from rome_lightning.metrics.mesh_distance import (
    ChamferDistance,
    closest_on_triangle,
    distances_to_mesh,
    f_score,
    icp,
    procrustes,
    sample_surface,
    transform,
)


def as_tensors(mesh: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(mesh.vertices)).float(), torch.from_numpy(np.array(mesh.faces)).long()


def bumpy(seed: int = 0) -> trimesh.Trimesh:
    """A closed surface of varying radius, about 100 across."""
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=50)
    wave = np.sin(mesh.vertices[:, 0] / 9 + seed) * np.cos(mesh.vertices[:, 1] / 7)
    mesh.vertices = mesh.vertices * (1 + 0.08 * wave[:, None])
    return mesh


def test_nearest_point_of_a_triangle_against_a_dense_search() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 3, generator=generator, dtype=torch.float64) * 2
    triangles = torch.randn(60, 3, 3, generator=generator, dtype=torch.float64)
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    u, v = torch.meshgrid(steps, steps, indexing="ij")
    inside = u + v <= 1 + 1e-12
    weights = torch.stack([1 - u - v, u, v], -1)[inside]
    found = (closest_on_triangle(points, triangles) - points).norm(dim=-1)
    dense = (torch.einsum("kc,ncd->nkd", weights, triangles) - points[:, None]).norm(dim=-1).amin(1)
    # The grid search is never nearer than the nearest point, and at most a step farther.
    assert (found <= dense + 1e-9).all()
    torch.testing.assert_close(found, dense, atol=0.02, rtol=0)


def test_distances_against_trimesh() -> None:
    truth, other = bumpy(), bumpy(1)
    surface = sample_surface(*as_tensors(truth), 400)
    ours = distances_to_mesh(surface, *as_tensors(other))
    _, distance, face = trimesh.proximity.closest_point_naive(other, surface.points.double().numpy())
    np.testing.assert_allclose(ours.distance, distance, atol=1e-4)
    cosine = (other.face_normals[face] * surface.normals.numpy()).sum(1)
    # On an edge two triangles are equally near, and either normal is correct.
    wrong = np.abs(ours.normal_deg.numpy() - np.rad2deg(np.arccos(cosine.clip(-1, 1)))) > 0.1
    assert wrong.mean() < 0.1


def test_samples_lie_on_the_surface_and_are_spread_by_area() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [10, 0, 0], [10, 3, 0], [13, 0, 0]])
    faces = torch.tensor([[0, 1, 2], [3, 5, 4]])
    surface = sample_surface(vertices, faces, 5000)
    assert surface.points[:, 2].abs().max() == 0
    # Areas 1/2 and 9/2.
    assert float((surface.faces == 1).float().mean()) == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(surface.normals, torch.tensor([0.0, 0, 1]).expand(5000, 3))
    centre = surface.points[surface.faces == 1].mean(0)
    torch.testing.assert_close(centre, torch.tensor([11.0, 1, 0]), atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="without area"):
        sample_surface(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]), 10)


def test_concentric_spheres_are_their_difference_apart() -> None:
    small, large = (as_tensors(trimesh.creation.icosphere(4, radius=r)) for r in (50.0, 53.0))
    metric = ChamferDistance(2000)
    metric.update(*large, *small)
    assert float(metric.compute()) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_procrustes_recovers_a_known_motion(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    turn = torch.from_numpy(Rotation.from_euler("xyz", [0.3, -0.8, 2.0]).as_matrix())
    moved = scale * points @ turn.T + torch.tensor([1.0, -2.0, 0.5])
    matrix = procrustes(points, moved, scale=scale != 1)
    torch.testing.assert_close(transform(matrix, points), moved)
    # A mirror image cannot be matched: the result is still a rotation.
    mirrored = procrustes(points, points * torch.tensor([-1.0, 1, 1]), scale=False)
    assert float(torch.linalg.det(mirrored[:3, :3])) == pytest.approx(1)


def test_icp_finds_back_a_surface() -> None:
    mesh = bumpy()
    vertices, faces = as_tensors(mesh)
    turn = torch.from_numpy(Rotation.from_euler("xyz", [4, -3, 5], degrees=True).as_matrix()).float()
    moved = vertices @ turn.T + torch.tensor([2.0, -1.0, 1.5])
    target = sample_surface(vertices, faces, 3000)
    before = distances_to_mesh(target, moved, faces).distance.mean()
    matrix = icp(moved, faces, target)
    after = distances_to_mesh(target, transform(matrix, moved), faces).distance.mean()
    assert before > 1.2
    # Nearly a sphere: rotations hardly change the distance, so the last degree converges slowly.
    assert after < before / 5


def test_f_score_by_hand() -> None:
    # Recall 1/2, precision 3/4.
    value = f_score(torch.tensor([0.5, 2.0]), torch.tensor([0.1, 0.2, 0.3, 4.0]), 1.0)
    assert value == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert f_score(torch.tensor([2.0]), torch.tensor([2.0]), 1.0) == 0
