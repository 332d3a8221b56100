"""A whole avatar, exported: what other readers make of the files is the model's own mesh."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from glb_reader import Reader
from helpers import perturbed, random_frames, random_params, small_config

from rome_lightning.avatar import Avatar
from rome_lightning.export.person import export_avatar
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.renderer import get_rasterizer
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

trimesh = pytest.importorskip("trimesh")

SHARE_OF_HEAD = 1e-4
"""How far the exported mesh may be from the model's, relative to the height of the head."""


@pytest.fixture(scope="module")
def avatar(head: HeadModel, offsets: torch.Tensor) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    made = Avatar.create(model, random_frames(head, 1), refine_steps=0)
    grown = torch.zeros_like(offsets)
    moving = head.region("scalp", "neck", "shoulders")
    generator = torch.Generator().manual_seed(0)
    grown[moving] = 0.03 * torch.randn(int(moving.sum()), 3, generator=generator)
    return Avatar(model, dataclasses.replace(made.code, offsets=grown[None]), made.photos, 64)


@pytest.fixture(scope="module")
def glb(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_avatar(avatar, tmp_path_factory.mktemp("glb") / "avatar.glb", "glb")


@pytest.fixture(scope="module")
def read(glb: Path) -> Reader:
    return Reader(glb)


@pytest.fixture(scope="module")
def tolerance(avatar: Avatar) -> float:
    """Metres."""
    skull = avatar.rest_mesh().vertices[0, avatar.model.head.region("face", "scalp", "ears")]
    height = float(skull[:, 1].max() - skull[:, 1].min())
    assert 0.2 < height < 0.5
    return SHARE_OF_HEAD * height


@pytest.fixture(scope="module")
def vertices(head: HeadModel, read: Reader) -> torch.Tensor:
    """Head vertex of each exported vertex."""
    indices = torch.from_numpy(read[read.primitive.indices][:, 0].astype(np.int64))
    found = torch.full((int(indices.max()) + 1,), -1)
    found[indices] = head.faces.flatten()
    return found


def rotation(vector: list[float]) -> np.ndarray:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def posed(avatar: Avatar, **changes: list[float]) -> HeadParams:
    rest = at_rest(avatar.source.params)
    return dataclasses.replace(rest, **{name: torch.tensor([value]) for name, value in changes.items()})


def test_glb_at_rest_and_at_each_expression(
    avatar: Avatar, read: Reader, vertices: torch.Tensor, tolerance: float
) -> None:
    def error(expression: torch.Tensor, weights: dict[str, float]) -> float:
        mesh = avatar.posed_mesh(posed(avatar, expression=expression.tolist())).vertices[0, vertices]
        return float(np.linalg.norm(read.pose(weights) - mesh.numpy(), axis=1).max())

    names = avatar.model.head.expression_names
    assert error(torch.zeros(len(names)), {}) < tolerance
    for index, name in enumerate(names):
        assert error(torch.eye(len(names))[index], {name: 1.0}) < tolerance, name
    some = torch.rand(len(names), generator=torch.Generator().manual_seed(1))
    assert error(some, dict(zip(names, some.tolist(), strict=True))) < 5 * tolerance


@pytest.mark.parametrize(
    ("joint", "vector"),
    [
        ("neck", [0.5, 0.0, 0.0]),
        ("neck", [0.0, -0.8, 0.0]),
        ("neck", [0.1, 0.2, 0.5]),
        ("jaw", [0.4, 0.1, 0.0]),
        ("left_eye", [0.2, 0.4, 0.0]),
        ("right_eye", [-0.3, 0.2, 0.1]),
    ],
)
def test_glb_under_joint_rotation(
    joint: str, vector: list[float], avatar: Avatar, read: Reader, vertices: torch.Tensor, tolerance: float
) -> None:
    zero = [0.0, 0.0, 0.0]
    if "eye" in joint:
        params = posed(avatar, eye_pose=vector + zero if joint == "left_eye" else zero + vector)
    else:
        params = posed(avatar, **{f"{joint}_pose": vector})
    expected = avatar.posed_mesh(params).vertices[0, vertices].numpy()
    found = read.pose(rotations={joint: rotation(vector)})
    assert np.linalg.norm(found - expected, axis=1).max() < tolerance
    assert np.linalg.norm(found - read.pose(), axis=1).max() > 100 * tolerance or "eye" in joint


def test_another_loader_draws_the_same_picture(avatar: Avatar, glb: Path) -> None:
    scene = trimesh.load(glb, process=False)
    (mesh,) = scene.geometry.values()
    params, size = at_rest(avatar.source.params), (128, 128)
    rasterizer = get_rasterizer("torch")

    def drawn(points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return rasterizer.face_ids(avatar.model.project(points[None], params, size), faces, size)

    theirs = drawn(torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces))
    ours = drawn(avatar.rest_mesh().vertices[0], avatar.model.head.faces)
    # Faces keep their order; a pixel on an edge may go to either side.
    assert float((theirs == ours).float().mean()) > 0.999
    assert 0.05 < float((ours >= 0).float().mean()) < 0.95


def test_obj_and_ply_of_a_pose(avatar: Avatar, tmp_path: Path) -> None:
    head = avatar.model.head
    params = random_params(head, 2, seed=3)[slice(1, 2)]
    expected = head.to_world(avatar.posed_mesh(params).vertices, params)[0]
    obj = trimesh.load(export_avatar(avatar, tmp_path / "a.obj", "obj", params), process=False)
    np.testing.assert_allclose(obj.vertices[obj.faces], expected[head.faces], atol=2e-6)
    ply = trimesh.load(export_avatar(avatar, tmp_path / "a.ply", "ply", params), process=False)
    np.testing.assert_allclose(ply.vertices, expected, atol=1e-6)
    # The vertex has the colour that the texture has at it.
    picture = np.asarray(obj.visual.material.image)[..., :3]
    size = picture.shape[0]
    place = (head.vertex_uvs * size).long().clamp(0, size - 1)
    near = picture[place[:, 1], place[:, 0]].astype(int)
    assert np.median(np.abs(near - ply.visual.vertex_colors[:, :3])) < 20
    with pytest.raises(ValueError, match="rigged and holds no single pose"):
        export_avatar(avatar, tmp_path / "a.glb", "glb", params)


def test_parameters_give_the_mesh_back(avatar: Avatar, tmp_path: Path) -> None:
    head, params = avatar.model.head, random_params(avatar.model.head, 3, seed=4)
    with np.load(export_avatar(avatar, tmp_path / "a.npz", "params", params), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert str(arrays["head"]) == head.name
    assert arrays["expression_names"].tolist() == list(head.expression_names)
    values = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind == "f"}
    again = HeadParams(
        values["betas"],
        values["expression"],
        values["global_orient"],
        values["neck_pose"],
        values["jaw_pose"],
        torch.cat([values["leye_pose"], values["reye_pose"]], -1),
        values["camera"],
    )
    mesh = head(again) + head.turn(values["offsets"].expand(3, -1, -1), again)
    torch.testing.assert_close(mesh, avatar.posed_mesh(params).vertices, atol=1e-5, rtol=0)


def test_usd_holds_mesh_skeleton_and_shapes(avatar: Avatar, tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="needs usd-core")
    from pxr import Gf, Usd, UsdGeom, UsdSkel

    head = avatar.model.head
    stage = Usd.Stage.Open(str(export_avatar(avatar, tmp_path / "new" / "a.usdz", "usd")))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/avatar/mesh"))
    rest = avatar.rest_mesh().vertices[0]
    np.testing.assert_allclose(np.asarray(mesh.GetPointsAttr().Get()), rest, atol=1e-6)
    assert len(mesh.GetFaceVertexIndicesAttr().Get()) == head.faces.numel()
    cache = UsdSkel.Cache()
    root = UsdSkel.Root(stage.GetPrimAtPath("/avatar"))
    cache.Populate(root, Usd.PrimDefaultPredicate)
    skinning = cache.GetSkinningQuery(mesh.GetPrim())
    assert len(skinning.GetBlendShapeOrder()) == head.num_expression
    shape = UsdSkel.BlendShape(stage.GetPrimAtPath("/avatar/mesh/jawOpen"))
    moved = np.asarray(rest).copy()
    moved[np.asarray(shape.GetPointIndicesAttr().Get())] += np.asarray(shape.GetOffsetsAttr().Get())
    names = list(head.expression_names)
    opened = posed(avatar, expression=torch.eye(len(names))[names.index("jawOpen")].tolist())
    np.testing.assert_allclose(moved, avatar.posed_mesh(opened).vertices[0], atol=2e-5)
    # USD's own skinning, with the neck turned: its joints are the rotation about their place.
    skeleton = cache.GetSkelQuery(UsdSkel.Skeleton(stage.GetPrimAtPath("/avatar/skeleton")))
    bind = skeleton.GetJointWorldBindTransforms()
    vector = [0.0, 0.5, 0.0]
    assert list(skeleton.GetJointOrder())[1] == "root/neck"
    about = Gf.Matrix4d().SetRotate(Gf.Rotation(Gf.Vec3d(0, 1, 0), math.degrees(vector[1])))
    neck = bind[1].ExtractTranslation()
    turn = Gf.Matrix4d().SetTranslate(-neck) * about * Gf.Matrix4d().SetTranslate(neck)
    skinned = mesh.GetPointsAttr().Get()
    assert skinning.ComputeSkinnedPoints([Gf.Matrix4d(1), turn, turn, turn, turn], skinned)
    expected = avatar.posed_mesh(posed(avatar, neck_pose=vector)).vertices[0]
    np.testing.assert_allclose(np.asarray(skinned), expected, atol=3e-5)


def test_without_the_usd_library_its_name_is_said(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(ImportError, match="pip install usd-core"):
        export_avatar(avatar, tmp_path / "a.usdz", "usd")
    assert not list(tmp_path.iterdir())
