"""OBJ and PLY files, read back by another library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rome_lightning.export import export_obj, export_ply
from rome_lightning.head import HeadModel
from rome_lightning.types import HeadParams

trimesh = pytest.importorskip("trimesh")


def test_obj(head: HeadModel, tmp_path: Path) -> None:
    vertices = head(HeadParams.neutral(1, head.num_shape, head.num_expression))[0]
    texture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    path = export_obj(tmp_path / "new" / "a.obj", vertices, head.faces, head.uvs, head.uv_faces, texture)
    mesh = trimesh.load(path, process=False)
    assert mesh.faces.shape == head.faces.shape
    np.testing.assert_allclose(mesh.vertices[mesh.faces], vertices[head.faces], atol=1e-6)
    # trimesh keeps the file's v, which points up.
    uvs = head.uvs[head.uv_faces].numpy() * [1, -1] + [0, 1]
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces], uvs, atol=1e-6)
    loaded = np.asarray(mesh.visual.material.image)[..., :3]
    np.testing.assert_array_equal(loaded, (texture * 255).round().byte().permute(1, 2, 0).numpy())
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.mtl", "a.obj", "a.png"]
    Image.open(path.with_suffix(".png")).verify()


def test_obj_without_texture_has_no_material(tmp_path: Path) -> None:
    triangle = torch.tensor([[0, 1, 2]])
    path = export_obj(tmp_path / "a.obj", torch.eye(3), triangle, torch.rand(3, 2), triangle)
    assert [p.name for p in tmp_path.iterdir()] == ["a.obj"]
    assert "mtllib" not in path.read_text()
    with pytest.raises(ValueError, match="one row per face, 1, got"):
        export_obj(path, torch.eye(3), triangle, torch.rand(3, 2), triangle.repeat(2, 1))


@pytest.mark.parametrize("with_colours", [True, False])
def test_ply(with_colours: bool, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    vertices, faces = torch.randn(9, 3, generator=rng), torch.randint(9, (4, 3), generator=rng)
    colours = torch.rand(9, 3, generator=rng) if with_colours else None
    mesh = trimesh.load(export_ply(tmp_path / "a.ply", vertices, faces, colours), process=False)
    np.testing.assert_allclose(mesh.vertices, vertices, atol=1e-7)
    np.testing.assert_array_equal(mesh.faces, faces)
    if colours is not None:
        np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], (colours * 255).round().byte())
