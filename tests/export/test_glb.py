"""A written GLB contains the avatar, by an independent reader and Khronos' validator."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
from glb_reader import Reader
from gltf_validator import khronos_issues
from PIL import Image

from rome_lightning.export import Person, export_glb
from rome_lightning.export.profiles import Profile
from rome_lightning.head import JOINTS, HeadModel
from rome_lightning.types import HeadParams


@pytest.fixture(scope="module")
def texture() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def path(
    head: HeadModel,
    shape: torch.Tensor,
    offsets: torch.Tensor,
    texture: torch.Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    person = Person(head, shape, offsets, texture, copyright="2026 Jane Doe")
    return export_glb(tmp_path_factory.mktemp("glb") / "new" / "avatar.glb", person)


@pytest.fixture(scope="module")
def read(path: Path) -> Reader:
    return Reader(path)


def params(head: HeadModel, shape: torch.Tensor) -> HeadParams:
    values = HeadParams.neutral(1, head.num_shape, head.num_expression)
    values.shape.copy_(shape)
    return values


def corner_vertices(head: HeadModel, read: Reader) -> torch.Tensor:
    """Head vertex of each exported vertex, found through the faces."""
    indices = torch.from_numpy(read[read.primitive.indices][:, 0].astype(np.int64))
    vertices = torch.full((int(indices.max()) + 1,), -1)
    vertices[indices] = head.faces.flatten()
    return vertices


def test_mesh_and_offsets(head: HeadModel, shape: torch.Tensor, offsets: torch.Tensor, read: Reader) -> None:
    expected = (head(params(head, shape))[0] + offsets)[corner_vertices(head, read)]
    positions = read[read.primitive.attributes.POSITION]
    np.testing.assert_allclose(positions, expected, atol=1e-7)
    indices = read[read.primitive.indices].reshape(-1, 3)
    assert indices.shape == head.faces.shape
    uvs = read[read.primitive.attributes.TEXCOORD_0][indices]
    np.testing.assert_array_equal(uvs, head.uvs[head.uv_faces])
    # Normals point outwards, along those of the faces that share the vertex.
    normals = read[read.primitive.attributes.NORMAL]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    a, b, c = (positions[indices[:, k]] for k in range(3))
    assert ((np.cross(b - a, c - a) * normals[indices[:, 0]]).sum(1) > 0).mean() > 0.97


def test_vertices_are_split_at_seams_only(head: HeadModel, read: Reader) -> None:
    pairs = {(int(a), int(b)) for a, b in zip(head.faces.flatten(), head.uv_faces.flatten(), strict=True)}
    assert len(read[read.primitive.attributes.POSITION]) == len(pairs)


def test_morph_targets_are_the_expressions(head: HeadModel, shape: torch.Tensor, read: Reader) -> None:
    assert read.gltf.meshes[0].extras["targetNames"] == list(head.expression_names)
    assert len(read.gltf.meshes[0].weights) == head.num_expression
    vertices = corner_vertices(head, read)
    neutral = params(head, shape)
    for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkRight", "tongueOut"):
        posed = params(head, shape)
        posed.expression[0, head.expression_names.index(name)] = 1
        moved = (head(posed) - head(neutral))[0, vertices]
        # Displacements below SMALLEST_MOVE are omitted.
        np.testing.assert_allclose(read.target(name), moved, atol=1.1e-5)
        assert np.abs(read.target(name)).max() > 1e-3


def test_bounds_are_those_of_the_data(read: Reader) -> None:
    accessors = [read.primitive.attributes.POSITION, *(t["POSITION"] for t in read.primitive.targets)]
    for index in accessors:
        entry = read.gltf.accessors[index]
        np.testing.assert_array_equal(np.float32(entry.min), read[index].min(0))
        np.testing.assert_array_equal(np.float32(entry.max), read[index].max(0))


def test_sparse_targets_save_space(read: Reader, path: Path) -> None:
    entries = [read.gltf.accessors[t["POSITION"]] for t in read.primitive.targets]
    assert sum(entry.sparse is not None for entry in entries) > 20
    dense = 2 * len(entries) * entries[0].count * 12
    assert path.stat().st_size < dense / 2


def _about_y(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def test_skin_moves_the_mesh_as_the_model_does(
    head: HeadModel, shape: torch.Tensor, offsets: torch.Tensor, read: Reader
) -> None:
    posed = params(head, shape)
    posed.neck_pose[0, 1], posed.jaw_pose[0, 1], posed.eye_pose[0, 1] = 0.4, 0.2, -0.3
    rotations = {"neck": _about_y(0.4), "jaw": _about_y(0.2), "left_eye": _about_y(-0.3)}
    names = [read.gltf.nodes[joint].name for joint in read.gltf.skins[0].joints]
    assert tuple(names) == JOINTS
    joints, weights = (read[getattr(read.primitive.attributes, name)] for name in ("JOINTS_0", "WEIGHTS_0"))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert (weights >= 0).all()
    assert (joints[weights == 0] == 0).all()
    vertices = corner_vertices(head, read)
    expected = (head(posed) + head.turn(offsets[None], posed))[0, vertices].numpy()
    assert np.abs(read.pose(rotations=rotations) - expected).max() < 2e-5


def test_texture_and_material(head: HeadModel, read: Reader, texture: torch.Tensor) -> None:
    image = read.gltf.images[0]
    view = read.gltf.bufferViews[image.bufferView]
    data = read.blob[view.byteOffset : view.byteOffset + view.byteLength]
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert image.mimeType == "image/png"
    np.testing.assert_array_equal(pixels, (texture * 255).round().byte().permute(1, 2, 0).numpy())
    assert read.gltf.materials[0].doubleSided
    assert read.gltf.asset.copyright == f"2026 Jane Doe; head model: {head.licence}"


def test_unlit(head: HeadModel, shape: torch.Tensor, texture: torch.Tensor, tmp_path: Path) -> None:
    path = export_glb(tmp_path / "a.glb", Person(head, shape, None, texture), profile=Profile(unlit=True))
    gltf = pygltflib.GLTF2().load(str(path))
    assert gltf.extensionsUsed == ["KHR_materials_unlit"]
    assert "KHR_materials_unlit" in gltf.materials[0].extensions


def test_wrong_shapes_are_refused(
    head: HeadModel, shape: torch.Tensor, texture: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="shape must have 100 coefficients for open-head"):
        export_glb(tmp_path / "a.glb", Person(head, shape[:5], None, texture))
    with pytest.raises(ValueError, match="offsets must have shape"):
        export_glb(tmp_path / "a.glb", Person(head, shape, torch.zeros(3, 3), texture))
    with pytest.raises(ValueError, match="colour_texture must have shape"):
        export_glb(tmp_path / "a.glb", Person(head, shape, None, texture[None]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unlit", [False, True])
def test_khronos_validator_finds_nothing(
    unlit: bool, head: HeadModel, shape: torch.Tensor, texture: torch.Tensor, tmp_path: Path
) -> None:
    path = export_glb(
        tmp_path / "avatar.glb", Person(head, shape, None, texture), profile=Profile(unlit=unlit)
    )
    assert khronos_issues(path) == []
