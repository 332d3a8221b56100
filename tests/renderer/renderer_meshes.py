"""Meshes shared by the renderer's tests; vertices in pixels, y down, smaller z nearer."""

import torch
import trimesh
from torch import Tensor


def sphere(radius: float, centre: tuple[float, float], subdivisions: int = 2) -> tuple[Tensor, Tensor]:
    """A slightly rotated icosphere: vertices (1, v, 3) in float32 and faces (f, 3)."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    mesh.apply_transform(trimesh.transformations.euler_matrix(0.3, 0.5, 0.7))
    points = torch.tensor(mesh.vertices, dtype=torch.float64) * torch.tensor([1.0, -1.0, -1.0])
    shift = torch.tensor([*centre, 0.0], dtype=torch.float64)
    return (points * radius + shift).float()[None], torch.tensor(mesh.faces.copy()).long()


def bumpy(vertices: Tensor, amplitude: float) -> Tensor:
    """Displace vertices smoothly, so that the mesh is no longer convex."""
    x, y, z = vertices.unbind(-1)
    shift = torch.stack([torch.sin(0.7 * y), torch.sin(0.6 * z + 1), torch.sin(0.5 * x + 2)], dim=-1)
    return vertices + amplitude * shift


def random_soup(seed: int, batch: int = 3, scale: float = 8.0) -> tuple[Tensor, Tensor]:
    """Intersecting triangles of all shapes, many of them partly outside a 31 x 23 image."""
    generator = torch.Generator().manual_seed(seed)
    num_vertices = int(torch.randint(4, 60, (1,), generator=generator))
    faces = torch.randint(0, num_vertices, (80, 3), generator=generator)
    return torch.randn(batch, num_vertices, 3, generator=generator) * scale + 12, faces
