"""A whole avatar, exported: other readers get the model's own mesh from the files."""

from __future__ import annotations

import dataclasses
import math
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from glb_reader import Reader
from gltf_validator import khronos_issues
from helpers import perturbed, random_frames, random_params, small_config
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rome_lightning.avatar import Avatar
from rome_lightning.export import Motion
from rome_lightning.export.person import export_avatar
from rome_lightning.export.profiles import Profile
from rome_lightning.export.visemes import VISEMES
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

trimesh = pytest.importorskip("trimesh")

SHARE_OF_HEAD = 1e-4
"""Tolerance between the exported mesh and the model's, relative to the height of the head."""


@pytest.fixture(scope="module")
def avatar(head: HeadModel, offsets: torch.Tensor) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    made = Avatar.create(model, random_frames(head, 1), refine_steps=0)
    grown = torch.zeros_like(offsets)
    moving = head.region("scalp", "neck", "shoulders")
    generator = torch.Generator().manual_seed(0)
    grown[moving] = 0.03 * torch.randn(int(moving.sum()), 3, generator=generator)
    return Avatar(
        model, dataclasses.replace(made.code, offsets=grown[None]), made.photos, 64, ["portrait.jpg"]
    )


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
def kept(avatar: Avatar, read: Reader) -> tuple[torch.Tensor, torch.Tensor]:
    """Exported vertices that are the head's own, and the head vertex of each; the rest belongs to the cut."""
    positions = read[read.primitive.attributes.POSITION]
    distance, nearest = cKDTree(avatar.rest_mesh().vertices[0].numpy()).query(positions)
    own = torch.from_numpy(distance) < 1e-6
    assert own.float().mean() > 0.85
    return own, torch.from_numpy(nearest)[own]


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
    avatar: Avatar, read: Reader, kept: tuple[torch.Tensor, torch.Tensor], tolerance: float
) -> None:
    own, vertices = kept

    def error(expression: torch.Tensor, weights: dict[str, float]) -> float:
        mesh = avatar.posed_mesh(posed(avatar, expression=expression.tolist())).vertices[0, vertices]
        return float(np.linalg.norm(read.pose(weights)[own] - mesh.numpy(), axis=1).max())

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
    joint: str,
    vector: list[float],
    avatar: Avatar,
    read: Reader,
    kept: tuple[torch.Tensor, torch.Tensor],
    tolerance: float,
) -> None:
    own, vertices = kept
    zero = [0.0, 0.0, 0.0]
    if "eye" in joint:
        params = posed(avatar, eye_pose=vector + zero if joint == "left_eye" else zero + vector)
    else:
        params = posed(avatar, **{f"{joint}_pose": vector})
    expected = avatar.posed_mesh(params).vertices[0, vertices].numpy()
    found = read.pose(rotations={joint: rotation(vector)})[own]
    assert np.linalg.norm(found - expected, axis=1).max() < tolerance
    assert np.linalg.norm(found - read.pose()[own], axis=1).max() > 100 * tolerance or "eye" in joint


def test_another_loader_draws_the_same_picture(avatar: Avatar, glb: Path) -> None:
    scene = trimesh.load(glb, process=False)
    (mesh,) = scene.geometry.values()
    params, size = at_rest(avatar.source.params), (128, 128)
    rasterizer = get_rasterizer("torch")

    def depth(points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        pixels = avatar.model.project(points[None], params, size)
        ids = rasterizer.face_ids(pixels, faces, size)
        return interpolate(pixels, faces, ids, pixels)[0, 2].masked_fill(ids[0] < 0, torch.inf)

    theirs = depth(torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces))
    ours = depth(avatar.rest_mesh().vertices[0], avatar.model.head.faces)
    # Above the cut the images agree; a pixel on an edge may go to either side.
    face = avatar.model.head.region("face")
    lowest = avatar.model.project(avatar.rest_mesh().vertices, params, size)[0, face, 1].max()
    rows = slice(0, int(lowest) - 4)
    same = (theirs[rows] - ours[rows]).abs() < 0.01
    same |= theirs[rows].isinf() & ours[rows].isinf()
    assert float(same.float().mean()) > 0.995
    assert 0.05 < float(ours.isfinite().float().mean()) < 0.95


def test_the_bust_is_closed_below_and_names_the_photograph(avatar: Avatar, read: Reader) -> None:
    positions = read[read.primitive.attributes.POSITION]
    faces = read[read.primitive.indices].reshape(-1, 3)
    points, index = np.unique(positions.round(7), axis=0, return_inverse=True)
    corners = index.reshape(-1)[faces]
    directed = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    directed = directed[directed[:, 0] != directed[:, 1]]
    found, times = np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)
    assert times.max() == 2
    assert len(np.unique(directed, axis=0)) == len(directed), "triangles are turned alike"
    # Open edges lie inside: the rims of eye sockets, teeth and gums.
    head = avatar.model.head
    inside = avatar.rest_mesh().vertices[0, head.region("eyes", "mouth", "face")]
    assert cKDTree(inside).query(points[found[times == 1].ravel()])[0].max() < 1e-5
    # Outwards: the enclosed volume is positive, and about that of a head.
    a, b, c = (positions[faces[:, k]].astype(np.float64) for k in range(3))
    assert 0.002 < (a * np.cross(b, c)).sum() / 6 < 0.03, "cubic metres"
    assert "portrait.jpg" in read.gltf.asset.copyright


def test_visemes_are_mixes_of_the_expressions(avatar: Avatar, read: Reader, tmp_path: Path) -> None:
    params = random_params(avatar.model.head, 2, seed=6)
    motion = Motion(params, torch.tensor([0.0, 0.1]), "talk")
    more = Reader(
        export_avatar(avatar, tmp_path / "a.glb", "glb", motion=motion, profile=Profile(mixes=VISEMES))
    )
    names = more.gltf.meshes[0].extras["targetNames"]
    assert len(names) == len(set(names)) == avatar.model.head.num_expression + 15
    for name, mix in VISEMES.items():
        expected = sum((weight * read.target(key) for key, weight in mix.items()), np.zeros((1, 3)))
        # Displacements below 1e-5 m are omitted from each target.
        np.testing.assert_allclose(more.target(name) - expected, 0, atol=5e-5)
    weights = more[more.gltf.animations[0].samplers[0].output].reshape(2, -1)
    np.testing.assert_allclose(weights[:, : params.expression.shape[1]], params.expression, atol=1e-7)
    assert (weights[:, params.expression.shape[1] :] == 0).all()
    assert khronos_issues(tmp_path / "a.glb") == []


def test_the_photographs_name_survives_saving(avatar: Avatar, tmp_path: Path) -> None:
    avatar.save(tmp_path / "a.safetensors")
    assert Avatar.load(tmp_path / "a.safetensors").photo_names == ("portrait.jpg",)


def test_an_animation_clip_replays_the_driver(
    avatar: Avatar, kept: tuple[torch.Tensor, torch.Tensor], tmp_path: Path, tolerance: float
) -> None:
    head, (own, vertices) = avatar.model.head, kept
    shift = torch.tensor([[0.03, 0.0, 0.0], [-0.02, 0.02, 0.01], [0.0, 0.0, 0.0]])
    params = dataclasses.replace(random_params(head, 3, seed=5), torso_shift=shift)
    motion = Motion(params, torch.tensor([0.0, 0.1, 0.25]), "talk")
    path = export_avatar(avatar, tmp_path / "a.glb", "glb", motion=motion)
    read = Reader(path)
    (clip,) = read.gltf.animations
    assert clip.name == "talk"
    for frame in range(3):
        weights: dict[str, float] = {}
        rotations: dict[str, np.ndarray] = {}
        places: dict[str, np.ndarray] = {}
        for channel in clip.channels:
            sampler = clip.samplers[channel.sampler]
            np.testing.assert_allclose(read[sampler.input][:, 0], motion.times_s, atol=1e-7)
            values = read[sampler.output].reshape(3, -1)[frame]
            if channel.target.path == "weights":
                weights = dict(zip(head.expression_names, values.tolist(), strict=True))
                continue
            name = read.gltf.nodes[channel.target.node].name
            if channel.target.path == "translation":
                places[name] = values
            else:
                rotations[name] = Rotation.from_quat(values).as_matrix()
        pose = dataclasses.replace(params[slice(frame, frame + 1)], shape=avatar.code.shape)
        mesh = head.to_world(avatar.posed_mesh(pose).vertices, pose)[0, vertices].numpy()
        error = np.linalg.norm(read.pose(weights, rotations, places)[own] - mesh, axis=1).max()
        # A thousandth of the head's height.
        assert error < 10 * tolerance
    assert khronos_issues(path) == []


def test_obj_and_ply_of_a_pose(avatar: Avatar, tmp_path: Path) -> None:
    head = avatar.model.head
    params = random_params(head, 2, seed=3)[slice(1, 2)]
    expected = head.to_world(avatar.posed_mesh(params).vertices, params)[0]
    obj = trimesh.load(export_avatar(avatar, tmp_path / "a.obj", "obj", params), process=False)
    np.testing.assert_allclose(obj.vertices[obj.faces], expected[head.faces], atol=2e-6)
    ply = trimesh.load(export_avatar(avatar, tmp_path / "a.ply", "ply", params), process=False)
    np.testing.assert_allclose(ply.vertices, expected, atol=1e-6)
    # The vertex has the texture's colour at that point.
    picture = np.asarray(obj.visual.material.image)[..., :3]
    size = picture.shape[0]
    place = (head.vertex_uvs * size).long().clamp(0, size - 1)
    near = picture[place[:, 1], place[:, 0]].astype(int)
    assert np.median(np.abs(near - ply.visual.vertex_colors[:, :3])) < 20
    with pytest.raises(ValueError, match="rigged and has no single pose"):
        export_avatar(avatar, tmp_path / "a.glb", "glb", params)
    with pytest.raises(ValueError, match="only glb files support animations"):
        export_avatar(avatar, tmp_path / "a.obj", "obj", motion=Motion(params, torch.zeros(2), "a"))


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
    # The same closed bust as in a GLB, whose vertices are the model's but for the cut's.
    rest, read = (
        np.asarray(mesh.GetPointsAttr().Get()),
        Reader(export_avatar(avatar, tmp_path / "a.glb", "glb")),
    )
    np.testing.assert_allclose(rest, read[read.primitive.attributes.POSITION], atol=1e-7)
    triangles = np.asarray(mesh.GetFaceVertexIndicesAttr().Get())
    assert (triangles == read[read.primitive.indices][:, 0]).all()
    assert "portrait.jpg" in stage.GetMetadata("comment")
    uvs = np.asarray(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get())
    expected = read[read.primitive.attributes.TEXCOORD_0] * (1, -1) + (0, 1)
    np.testing.assert_allclose(uvs, expected, atol=1e-6)
    distance, nearest = cKDTree(avatar.rest_mesh().vertices[0].numpy()).query(rest)
    own = distance < 1e-6
    assert own.mean() > 0.85
    cache = UsdSkel.Cache()
    root = UsdSkel.Root(stage.GetPrimAtPath("/avatar"))
    cache.Populate(root, Usd.PrimDefaultPredicate)
    skinning = cache.GetSkinningQuery(mesh.GetPrim())
    assert len(skinning.GetBlendShapeOrder()) == head.num_expression
    shape = UsdSkel.BlendShape(stage.GetPrimAtPath("/avatar/mesh/jawOpen"))
    moved = rest.copy()
    moved[np.asarray(shape.GetPointIndicesAttr().Get())] += np.asarray(shape.GetOffsetsAttr().Get())
    names = list(head.expression_names)
    opened = posed(avatar, expression=torch.eye(len(names))[names.index("jawOpen")].tolist())
    expected = avatar.posed_mesh(opened).vertices[0].numpy()[nearest[own]]
    np.testing.assert_allclose(moved[own], expected, atol=2e-5)
    # USD's own skinning with a rotated neck: joints rotate about their positions.
    skeleton = cache.GetSkelQuery(UsdSkel.Skeleton(stage.GetPrimAtPath("/avatar/skeleton")))
    bind = skeleton.GetJointWorldBindTransforms()
    vector = [0.0, 0.5, 0.0]
    assert list(skeleton.GetJointOrder())[1] == "root/neck"
    about = Gf.Matrix4d().SetRotate(Gf.Rotation(Gf.Vec3d(0, 1, 0), math.degrees(vector[1])))
    neck = bind[1].ExtractTranslation()
    turn = Gf.Matrix4d().SetTranslate(-neck) * about * Gf.Matrix4d().SetTranslate(neck)
    skinned = mesh.GetPointsAttr().Get()
    assert skinning.ComputeSkinnedPoints([Gf.Matrix4d(1), turn, turn, turn, turn], skinned)
    expected = avatar.posed_mesh(posed(avatar, neck_pose=vector)).vertices[0].numpy()[nearest[own]]
    np.testing.assert_allclose(np.asarray(skinned)[own], expected, atol=3e-5)


def test_a_full_temporary_folder_names_the_usd_file_that_is_not_written(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pxr", reason="needs usd-core")
    path, parts = tmp_path / "a.usdz", tmp_path / "parts"
    parts.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(parts))
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough space for the texture, not for the mesh, which USD writes itself.
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.usdz was not written.*parts.*File too large.*TMPDIR"):
            export_avatar(avatar, path, "usd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert not list(parts.iterdir())


def test_without_the_usd_library_its_name_is_said(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(ImportError, match="pip install usd-core"):
        export_avatar(avatar, tmp_path / "a.usdz", "usd")
    assert not list(tmp_path.iterdir())
