"""A whole body joins the bust without a crack, moves as a rig should, and follows the photograph's person."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_page import show, vrm_page
from glb_reader import Reader
from gltf_validator import khronos_issues, node_folder
from helpers import perturbed, random_frames, random_params, small_config
from PIL import Image
from safetensors import safe_open
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from vrm_schema import schema_errors

from rome_lightning.avatar import Avatar
from rome_lightning.cli.main import main
from rome_lightning.export import body as module
from rome_lightning.export.body import BODY_FILE, load_body, with_body
from rome_lightning.export.glb import Motion, Person, export_glb, rest_and_joints
from rome_lightning.export.person import rigged_person, simplified_person
from rome_lightning.export.profiles import PROFILES
from rome_lightning.export.usd import export_usd
from rome_lightning.export.vrm import VrmMeta, export_vrm
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel

SIDES = (("left", 1.0), ("right", -1.0))


class BodyReader(Reader):
    """The same file's second mesh."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.mesh = 1


@pytest.fixture(scope="module")
def avatar(head: HeadModel) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    return Avatar.create(model, random_frames(head, 1), refine_steps=0, photo_names=["portrait.jpg"])


@pytest.fixture(scope="module")
def dressed(avatar: Avatar) -> Person:
    return rigged_person(avatar, 256, body="full")


@pytest.fixture(scope="module")
def level(dressed: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figure with a third of its triangles."""
    pytest.importorskip("fast_simplification")
    return export_glb(tmp_path_factory.mktemp("levels") / "me.glb", simplified_person(dressed, 1 / 3))


@pytest.fixture(scope="module")
def files(dressed: Person, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    meta = VrmMeta("me", "Jane Doe")
    return {
        "vrm": export_vrm(folder / "new.vrm", dressed, meta, "1.0"),
        "vrm0": export_vrm(folder / "old.vrm", dressed, meta, "0.0"),
        "glb": export_glb(folder / "me.glb", dressed),
    }


def welded(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions of both meshes, each once, and the triangles over them."""
    positions, triangles, count = [], [], 0
    for read in (Reader(file), BodyReader(file)):
        positions.append(read[read.primitive.attributes.POSITION])
        triangles.append(read[read.primitive.indices].reshape(-1, 3).astype(np.int64) + count)
        count += len(positions[-1])
    unique, index = np.unique(np.concatenate(positions), axis=0, return_inverse=True)
    return unique, index.ravel()[np.concatenate(triangles)]


def test_the_shipped_body_says_what_it_is() -> None:
    with safe_open(BODY_FILE, framework="pt") as handle:
        metadata = handle.metadata()
    assert metadata["format"] == "rome-body/1"
    assert metadata["head"] == "open-head-1"
    assert "CC0-1.0" in metadata["licence"]
    assert BODY_FILE.stat().st_size < 1_500_000
    notice = BODY_FILE.parents[1] / "head" / "NOTICE.md"
    assert "body.safetensors" in notice.read_text()


def test_a_damaged_body_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = bytearray(BODY_FILE.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "body.safetensors").write_bytes(damaged)
    monkeypatch.setattr(module, "BODY_FILE", tmp_path / "body.safetensors")
    load_body.cache_clear()
    with pytest.raises(ValueError, match="reinstall"):
        load_body()
    load_body.cache_clear()


@pytest.mark.parametrize("kind", ["vrm", "vrm0", "glb"])
def test_khronos_validator_finds_nothing(kind: str, files: dict[str, Path]) -> None:
    # Known ones: the old extension's name, and meshes below Mixamo's armature.
    known = ("INVALID_EXTENSION_NAME_FORMAT", "NODE_SKINNED_MESH_NON_ROOT")
    assert [issue for issue in khronos_issues(files[kind]) if not any(name in issue for name in known)] == []


@pytest.mark.parametrize("kind", ["vrm", "vrm0"])
def test_the_extension_follows_its_schema(kind: str, files: dict[str, Path]) -> None:
    ((name, content),) = Reader(files[kind]).gltf.extensions.items()
    assert schema_errors(name, content) == []


@pytest.mark.parametrize("kind", ["vrm", "vrm0", "glb"])
def test_no_edge_is_open_below_the_chin(kind: str, files: dict[str, Path]) -> None:
    check_closed(files[kind])
    points, _ = welded(files[kind])
    assert points[:, 1].min() == pytest.approx(0, abs=1e-6)
    assert points[:, 1].max() > 1.6


def check_closed(file: Path) -> None:
    points, faces = welded(file)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, first, times = np.unique(np.sort(edges, axis=1), axis=0, return_index=True, return_counts=True)
    open_edges = edges[first[times == 1]]
    places = {name.lower(): matrix[:3, 3] for name, matrix in Reader(file).node_matrices({}).items()}
    # Sockets, teeth and gums are open, inside the head.
    assert points[open_edges.ravel(), 1].min() > places["head"][1] - 0.02


def test_both_meshes_move_as_one_at_their_edge(files: dict[str, Path]) -> None:
    check_edge(files["vrm"])


def check_edge(file: Path) -> None:
    rows = []
    for read in (Reader(file), BodyReader(file)):
        found = vertex_rows(read)
        rows.append({tuple(row[:3]): row for row in found.tolist()})
    common = rows[0].keys() & rows[1].keys()
    assert len(common) == len(load_body().rim)
    for place in common:
        np.testing.assert_allclose(rows[0][place], rows[1][place], atol=1e-6)


def vertex_rows(read: Reader) -> np.ndarray:
    kinds = ("POSITION", "NORMAL", "JOINTS_0", "WEIGHTS_0")
    found = [read[getattr(read.primitive.attributes, kind)].astype(np.float64) for kind in kinds]
    return np.concatenate(found, axis=1)


def test_a_level_of_detail_has_fewer_triangles_and_no_gap(files: dict[str, Path], level: Path) -> None:
    check_closed(level)
    check_edge(level)
    for read, whole in ((Reader(level), Reader(files["glb"])), (BodyReader(level), BodyReader(files["glb"]))):
        count, all_of_them = (len(each[each.primitive.indices]) for each in (read, whole))
        assert count == pytest.approx(all_of_them / 3, rel=0.05)
        # Each vertex is one of the whole's, with its bones.
        assert {tuple(row) for row in vertex_rows(read)} <= {tuple(row) for row in vertex_rows(whole)}
    assert khronos_issues(level) == khronos_issues(files["glb"])


@pytest.mark.parametrize("kind", ["vrm", "vrm0"])
def test_the_rig_stands_in_a_t(kind: str, files: dict[str, Path]) -> None:
    read = Reader(files[kind])
    places = {name: matrix[:3, 3] for name, matrix in read.node_matrices({}).items()}
    ahead = 1.0 if kind == "vrm" else -1.0
    for side, sign in SIDES:
        arm = [places[side + bone] for bone in ("UpperArm", "LowerArm", "Hand", "MiddleProximal")]
        steps = np.diff(arm, axis=0)
        assert (ahead * sign * steps[:, 0] / np.linalg.norm(steps, axis=1) > 0.99).all()
        leg = np.diff([places[side + bone] for bone in ("UpperLeg", "LowerLeg", "Foot")], axis=0)
        assert (-leg[:, 1] / np.linalg.norm(leg, axis=1) > 0.999).all()
        assert ahead * (places[f"{side}Toes"] - places[f"{side}Foot"])[2] > 0.1
        # Palms down: the thumb is ahead of the hand.
        assert ahead * (places[f"{side}IndexProximal"] - places[f"{side}LittleProximal"])[2] > 0.03
    points = BodyReader(files[kind])[BodyReader(files[kind]).primitive.attributes.POSITION]
    hand = points[ahead * points[:, 0] > ahead * places["leftHand"][0] + 0.02]
    assert np.ptp(hand[:, 1]) < 0.1
    extension = read.gltf.extensions["VRMC_vrm" if kind == "vrm" else "VRM"]
    bones = extension["humanoid"]["humanBones"]
    named = set(bones) if kind == "vrm" else {bone["bone"] for bone in bones}
    thumb = "ThumbMetacarpal" if kind == "vrm" else "ThumbIntermediate"
    assert named >= {f"left{thumb}", "rightLittleDistal", "leftToes", "upperChest", "leftShoulder", "neck"}
    assert len({str(bone) for bone in bones}) == len(bones) == 54


def test_hanging_arms_give_back_the_photographs_bust(files: dict[str, Path], dressed: Person) -> None:
    body, read = load_body(), Reader(files["vrm"])
    turns = dict(zip(body.bones, body.straighten.double().numpy(), strict=True))
    parents = dict(zip(body.bones, body.parents, strict=True))
    local = {
        name: (turns[parents[name]] if parents[name] else np.eye(3)) @ turn.T for name, turn in turns.items()
    }
    places = {name: matrix[:3, 3] for name, matrix in read.node_matrices({}).items()}
    rest, joints = rest_and_joints(dressed.head, dressed.shape, dressed.offsets)
    raised = places["head"] - joints[1].numpy()
    vertices = np.unique(dressed.head.faces.numpy())
    found = np.unique(np.round(read.pose({}, local) - raised, 4), axis=0)
    expected = rest[vertices].numpy()
    # A thousandth of the head's height.
    assert cKDTree(found).query(expected)[0].max() < 2.5e-4
    # In the T-pose they are elsewhere.
    assert cKDTree(read.pose() - raised).query(expected)[0].max() > 0.03


def test_the_face_moves_as_in_a_bust(
    dressed: Person, files: dict[str, Path], head: HeadModel, tmp_path: Path
) -> None:
    person = dataclasses.replace(dressed, body_texture=None)
    bust = Reader(export_vrm(tmp_path / "bust.vrm", person, VrmMeta("me", "Jane Doe")))
    whole = Reader(files["vrm"])
    assert whole.gltf.meshes[0].extras["targetNames"] == list(head.expression_names)
    ends = []
    for read in (bust, whole):
        moves = read.target("jawOpen")
        ends.append(moves[np.lexsort(moves.T)][[0, -1]])
    np.testing.assert_allclose(*ends, atol=1e-6)
    old, new = (read.gltf.extensions["VRMC_vrm"]["expressions"] for read in (bust, whole))
    assert old == new
    nodes = whole.gltf.nodes
    annotations = whole.gltf.extensions["VRMC_vrm"]["firstPerson"]["meshAnnotations"]
    assert [(nodes[entry["node"]].mesh, entry["type"]) for entry in annotations] == [(0, "auto"), (1, "both")]


def test_proportions_follow_the_head_and_the_edge_its_shoulders(head: HeadModel) -> None:
    heights = []
    body = load_body()
    for amount in (-1.0, 0.0, 1.0):
        shape = amount * body.scores[:, 0]
        rest, joints = rest_and_joints(head, shape, None)
        wide = rest * torch.tensor([1.1, 1.0, 1.0])
        figure = with_body(head, shape, wide, joints)
        torch.testing.assert_close(figure.hanging[body.rim[:, 0]], wide[body.rim[:, 1]])
        heights.append(float(-figure.vertices[:, 1].min()))
        narrow = with_body(head, shape, rest, joints)
        # Wider shoulders hold the arms farther out, as stiff as they were.
        for bone in ("leftUpperArm", "leftHand"):
            out = [next(b.place[0] for b in f.bones if b.name == bone) for f in (narrow, figure)]
            assert 0.005 < out[1] - out[0] < 0.04
    assert np.ptp(heights) > 0.05
    assert all(1.4 < height < 1.9 for height in heights)


def test_the_garment_has_the_clothes_colour_and_hands_the_faces(avatar: Avatar, dressed: Person) -> None:
    texture = dressed.body_texture
    assert texture is not None
    body = load_body()

    def colour(part: torch.Tensor) -> torch.Tensor:
        chosen = part[body.faces].all(1)
        middle = body.uvs[body.uv_faces[chosen]].mean(1) * texture.shape[-1]
        columns, rows = middle.long().unbind(1)
        return texture[:, rows, columns].median(1).values

    face = avatar.model.head.vertex_uvs[avatar.model.head.region("face")] * 256
    columns, rows = face.long().clamp(0, 255).unbind(1)
    skin = dressed.colour_texture[:, rows, columns].median(1).values
    # Textures hold some shading.
    ratio = colour(body.hands) / skin
    assert float(ratio.max() - ratio.min()) < 0.1
    assert 0.6 < float(ratio.mean()) < 1.1
    assert float(colour(body.feet).max()) < 0.15
    # Both sides of the edge have one colour.
    rim = body.rim
    for vertex, other in rim[::8].tolist():
        corner = body.uv_faces[body.faces == vertex][0]
        column, row = (body.uvs[corner] * texture.shape[-1]).long().clamp(0, texture.shape[-1] - 1).tolist()
        x, y = (avatar.model.head.vertex_uvs[other] * 256).long().clamp(0, 255).tolist()
        difference = texture[:, row, column] - dressed.colour_texture[:, y, x]
        assert float(difference.abs().max()) < 0.06


def test_a_glb_has_mixamos_rig_and_two_pictures(files: dict[str, Path]) -> None:
    read = Reader(files["glb"])
    names = {node.name for node in read.gltf.nodes}
    assert names >= {"Hips", "Spine2", "LeftForeArm", "RightHandPinky3", "LeftToeBase", "Armature", "Body"}
    assert [image.name for image in read.gltf.images] == ["colour", "garment"]
    view = read.gltf.bufferViews[read.gltf.images[1].bufferView]
    content = read.blob[view.byteOffset : view.byteOffset + view.byteLength]
    assert Image.open(io.BytesIO(content)).size == (1024, 1024)
    np.testing.assert_allclose(BodyReader(files["glb"]).pose(), welded_rest(files["glb"]), atol=1e-5)
    # The y axis of each limb's bone lies along it, by which foreign poses bend it.
    matrices = read.node_matrices({})
    for bone, child in (("LeftArm", "LeftForeArm"), ("RightForeArm", "RightHand"), ("LeftUpLeg", "LeftLeg")):
        along = matrices[child][:3, 3] - matrices[bone][:3, 3]
        assert matrices[bone][:3, 1] @ along / np.linalg.norm(along) > 0.99
    raised = Rotation.from_rotvec([0, 0, 0.5]).as_matrix() @ matrices["LeftArm"][:3, :3]
    moved = BodyReader(files["glb"]).pose({}, {"LeftArm": raised})
    assert np.linalg.norm(moved - welded_rest(files["glb"]), axis=1).max() > 0.2


def welded_rest(file: Path) -> np.ndarray:
    read = BodyReader(file)
    return read[read.primitive.attributes.POSITION]


def test_none_is_head_and_neck(avatar: Avatar) -> None:
    person = rigged_person(avatar, 64, body="none")
    assert person.surface is not None
    assert person.body_texture is None
    points = person.surface.carry(avatar.rest_mesh().vertices[0])
    chin = float(avatar.rest_mesh().vertices[0, avatar.model.head.region("face"), 1].min())
    assert float(points[:, 1].min()) == pytest.approx(chin - 0.075, abs=0.005)
    assert float(points[:, 0].abs().max()) < 0.12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--format", "obj", "--body", "full"],
            "--body is for --format glb or vrm or vrm0 or web or usd or smplx, got obj",
        ),
        (["--body", "half"], "--body of --format glb must be none, bust, full, got half"),
    ],
)
def test_the_command_refuses_other_bodies(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["avatar", "export", str(tmp_path), *options]) == 1
    assert message in capsys.readouterr().err


def test_another_head_has_no_body(head: HeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rest, joints = rest_and_joints(head, torch.zeros(head.num_shape), None)
    monkeypatch.setattr(head, "name", "flame-2020")
    with pytest.raises(ValueError, match="--body bust"):
        with_body(head, torch.zeros(head.num_shape), rest, joints)


SCRIPT = """  const meshes = [];
  vrm.scene.traverse((node) => { if (node.isSkinnedMesh) meshes.push(node); });
  const place = (bone) => vrm.humanoid.getRawBoneNode(bone).getWorldPosition(new THREE.Vector3()).toArray();
  const look = () => {
    vrm.update(0);
    scene.updateMatrixWorld(true);
    const points = meshes.map((mesh) => {
      const found = [];
      for (let index = 0; index < mesh.geometry.attributes.position.count; index += 1) {
        const point = mesh.getVertexPosition(index, new THREE.Vector3()).applyMatrix4(mesh.matrixWorld);
        found.push(point.toArray());
      }
      return found;
    });
    return { shoulder: place("leftUpperArm"), hand: place("leftHand"), foot: place("rightFoot"), points };
  };
  const before = look();
  // VRM 0 looks along -z.
  const ahead = vrm.meta.metaVersion === "0" ? -1 : 1;
  vrm.humanoid.getNormalizedBoneNode("leftUpperArm").rotation.z = -1.2 * ahead;
  vrm.humanoid.getNormalizedBoneNode("rightUpperLeg").rotation.x = -0.6 * ahead;
  const after = look();
  const canvas = document.getElementById("c");
  const renderer = new THREE.WebGLRenderer({ canvas, preserveDrawingBuffer: true });
  renderer.setClearColor(0xdddddd);
  const camera = new THREE.PerspectiveCamera(25, 1, 0.1, 10);
  camera.position.set(0, 1, 5);
  renderer.render(scene, camera);
  finish({ before, after });"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vrm", "vrm0"])
def test_three_vrm_moves_arms_and_legs(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    modules = Path(node_folder("@pixiv/three-vrm")) / "node_modules"
    (tmp_path / "index.html").write_text(vrm_page(SCRIPT, width=700))
    (tmp_path / "me.vrm").write_bytes(files[kind].read_bytes())
    found = show({"modules": modules, "page": tmp_path}, "page/index.html", tmp_path / "body.png")
    assert "error" not in found, found["error"]
    before, after = found["before"], found["after"]
    # The arm turns about the shoulder, and the hand at its end with it.
    arm = np.subtract(before["hand"], before["shoulder"])
    turned = Rotation.from_rotvec([0, 0, -1.2]).apply(arm)
    np.testing.assert_allclose(np.subtract(after["hand"], after["shoulder"]), turned, atol=1e-5)
    assert after["hand"][1] < before["hand"][1] - 0.4
    assert after["foot"][2] > before["foot"][2] + 0.3
    points = [np.asarray(mesh) for mesh in before["points"]]
    moved = [np.asarray(mesh) for mesh in after["points"]]
    fingers = np.argmax(points[1][:, 0])
    expected = Rotation.from_rotvec([0, 0, -1.2]).apply(points[1][fingers] - before["shoulder"])
    np.testing.assert_allclose(moved[1][fingers] - after["shoulder"], expected, atol=1e-4)
    # What was one place stays one place.
    places = {tuple(np.round(point, 6)): index for index, point in enumerate(points[0])}
    pairs = [(places[tuple(p)], i) for i, p in enumerate(np.round(points[1], 6)) if tuple(p) in places]
    assert len(pairs) >= len(load_body().rim)
    gaps = [np.linalg.norm(moved[0][first] - moved[1][second]) for first, second in pairs]
    assert max(gaps) < 1e-5


def test_profiles_take_a_body(dressed: Person, tmp_path: Path) -> None:
    motion = Motion(random_params(dressed.head, 2), torch.arange(2) / 24, "talk")
    profile = PROFILES["talkinghead"]
    read = Reader(export_glb(tmp_path / "me.glb", dressed, profile=profile, motion=motion))
    # A clip turns the head and leaves the trunk.
    (clip,) = read.gltf.animations
    turned = {read.gltf.nodes[c.target.node].name for c in clip.channels if c.target.path == "rotation"}
    assert turned == {"Head", "Jaw", "LeftEye", "RightEye"}
    assert {image.mimeType for image in read.gltf.images} == {"image/jpeg"}
    assert "viseme_aa" in read.gltf.meshes[0].extras["targetNames"]
    assert len(read.gltf.meshes) == 2


def test_usd_has_the_same_figure(dressed: Person, files: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="needs usd-core")
    from pxr import Gf, Usd, UsdGeom, UsdSkel

    stage = Usd.Stage.Open(str(export_usd(tmp_path / "me.usdz", dressed)))
    cache, root = UsdSkel.Cache(), UsdSkel.Root(stage.GetPrimAtPath("/avatar"))
    cache.Populate(root, Usd.PrimDefaultPredicate)
    skeleton = cache.GetSkelQuery(UsdSkel.Skeleton(stage.GetPrimAtPath("/avatar/skeleton")))
    valid, reason = UsdSkel.Topology(skeleton.GetJointOrder()).Validate()
    assert valid, reason
    order = [str(path).split("/")[-1] for path in skeleton.GetJointOrder()]
    raised = (
        Rotation.from_rotvec([0.2, 0, 0.7]).as_matrix()
        @ (Reader(files["glb"]).node_matrices({})["LeftForeArm"][:3, :3])
    )
    # Of each bone the move from rest, by the GLB's reader; USD multiplies rows.
    before, after = (Reader(files["glb"]).node_matrices(turns) for turns in ({}, {"LeftForeArm": raised}))
    moves = [Gf.Matrix4d((after[name] @ np.linalg.inv(before[name])).T.tolist()) for name in order]
    bind = [np.asarray(matrix).T for matrix in skeleton.GetJointWorldBindTransforms()]
    np.testing.assert_allclose(bind, [before[name] for name in order], atol=1e-6)
    for path, read in (("mesh", Reader(files["glb"])), ("body", BodyReader(files["glb"]))):
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/avatar/{path}"))
        points = mesh.GetPointsAttr().Get()
        assert cache.GetSkinningQuery(mesh.GetPrim()).ComputeSkinnedPoints(moves, points)
        np.testing.assert_allclose(np.asarray(points), read.pose({}, {"LeftForeArm": raised}), atol=2e-5)
        textures = stage.GetPrimAtPath(f"/avatar/{'colour' if path == 'mesh' else 'garment'}/image")
        assert textures.GetAttribute("inputs:file").Get().path.endswith(".png")
    assert np.linalg.norm(np.asarray(points) - welded_rest(files["glb"]), axis=1).max() > 0.15
