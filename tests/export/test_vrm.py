"""VRM files follow the standard, and the library used by web pages animates them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_page import show, vrm_page
from glb_reader import Reader
from gltf_validator import khronos_issues, node_folder
from helpers import perturbed, random_frames, small_config
from scipy.spatial import cKDTree
from vrm_schema import schema_errors

from rome_lightning.avatar import Avatar
from rome_lightning.export.person import export_avatar
from rome_lightning.export.vrm import EXPRESSIONS, expression_weights
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.types.params import at_rest

# The standard's required and optional bones.
LIMBS = ("UpperLeg", "LowerLeg", "Foot", "UpperArm", "LowerArm", "Hand")
REQUIRED = {"hips", "spine", "head", *(side + limb for side in ("left", "right") for limb in LIMBS)}
OPTIONAL = {"chest", "upperChest", "neck", "leftEye", "rightEye", "jaw"}
REQUIRED_0 = REQUIRED | {"chest", "neck"}
PRESETS = {
    *("happy", "angry", "sad", "relaxed", "surprised", "aa", "ih", "ou", "ee", "oh", "blink", "blinkLeft"),
    *("blinkRight", "lookUp", "lookDown", "lookLeft", "lookRight", "neutral"),
}
PRESETS_0 = {
    *("neutral", "a", "i", "u", "e", "o", "blink", "joy", "angry", "sorrow", "fun", "lookup", "lookdown"),
    *("lookleft", "lookright", "blink_l", "blink_r", "unknown"),
}


@pytest.fixture(scope="module")
def avatar(head: HeadModel) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    return Avatar.create(model, random_frames(head, 1), refine_steps=0, photo_names=["portrait.jpg"])


@pytest.fixture(scope="module", params=["vrm", "vrm0"])
def file(request: pytest.FixtureRequest, avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "me.vrm"
    return export_avatar(avatar, path, request.param, author="Jane Doe")


def body(read: Reader) -> Any:
    extensions = read.gltf.extensions
    (name,) = extensions
    assert name in read.gltf.extensionsUsed
    return name, extensions[name]


def bone_nodes(read: Reader) -> dict[str, int]:
    name, vrm = body(read)
    bones = vrm["humanoid"]["humanBones"]
    if name == "VRMC_vrm":
        return {bone: entry["node"] for bone, entry in bones.items()}
    return {entry["bone"]: entry["node"] for entry in bones}


def test_khronos_validator_finds_nothing(file: Path) -> None:
    issues = khronos_issues(file)
    if body(Reader(file))[0] == "VRM":
        # The extension's name predates the naming rule.
        issues = [issue for issue in issues if "INVALID_EXTENSION_NAME_FORMAT" not in issue]
    assert issues == []


def test_the_extension_follows_its_schema(file: Path) -> None:
    assert schema_errors(*body(Reader(file))) == []


def test_a_human_stands_on_the_ground(file: Path, avatar: Avatar) -> None:
    read = Reader(file)
    nodes = bone_nodes(read)
    name, _ = body(read)
    assert nodes.keys() >= (REQUIRED if name == "VRMC_vrm" else REQUIRED_0)
    assert nodes.keys() <= REQUIRED | OPTIONAL
    assert len(set(nodes.values())) == len(nodes)
    places = {bone: read.node_matrices({})[read.gltf.nodes[node].name][:3, 3] for bone, node in nodes.items()}
    # Each bone's parent is the one required by the standard.
    parents = {child: index for index, node in enumerate(read.gltf.nodes) for child in node.children or []}

    def below(bone: str, ancestor: str) -> bool:
        node = nodes[bone]
        while node in parents:
            node = parents[node]
            if node == nodes[ancestor]:
                return True
        return False

    chains = [("spine", "hips"), ("chest", "spine"), ("neck", "chest"), ("head", "neck"), ("leftEye", "head")]
    for side in ("left", "right"):
        chains += [(side + "UpperArm", "chest"), (side + "Hand", side + "LowerArm")]
        chains += [(side + "UpperLeg", "hips"), (side + "Foot", side + "LowerLeg")]
    assert all(below(bone, ancestor) for bone, ancestor in chains)
    assert 0 < places["leftFoot"][1] < 0.15
    assert 1.4 < places["head"][1] < 1.7
    # VRM 1 faces +z with its left at +x; VRM 0 faces the other way.
    ahead = 1 if name == "VRMC_vrm" else -1
    assert ahead * places["leftHand"][0] > 0.5
    assert ahead * (places["leftEye"][2] - places["head"][2]) > 0.02
    points = read[read.primitive.attributes.POSITION]
    nose = points[(ahead * points[:, 2]).argmax()]
    assert abs(nose[0]) < 0.03
    # The mesh is the person's, shifted.
    rest = avatar.rest_mesh().vertices[0].numpy() * (ahead, 1, ahead) + (0, 1.6, 0)
    assert (cKDTree(rest).query(points)[0] < 1e-5).mean() > 0.85


def test_meta_says_whose_it_is(file: Path) -> None:
    name, vrm = body(Reader(file))
    meta = vrm["meta"]
    if name == "VRMC_vrm":
        assert vrm["specVersion"] == "1.0"
        assert meta["authors"] == ["Jane Doe"]
        assert meta["licenseUrl"] == "https://vrm.dev/licenses/1.0/"
        assert "portrait.jpg" in meta["copyrightInformation"]
        assert meta["avatarPermission"] in ("onlyAuthor", "onlySeparatelyLicensedPerson", "everyone")
        assert meta["commercialUsage"] in ("personalNonProfit", "personalProfit", "corporation")
        assert meta["creditNotation"] in ("required", "unnecessary")
        assert meta["modification"] in ("prohibited", "allowModification", "allowModificationRedistribution")
        assert vrm["firstPerson"]["meshAnnotations"] == [{"node": 0, "type": "auto"}]
        assert vrm["lookAt"]["type"] == "bone"
    else:
        assert (vrm["specVersion"], meta["author"]) == ("0.0", "Jane Doe")
        assert meta["allowedUserName"] in ("OnlyAuthor", "ExplicitlyLicensedPerson", "Everyone")
        assert meta["licenseName"] == "Redistribution_Prohibited"
        assert "portrait.jpg" in meta["reference"]
        assert vrm["firstPerson"]["lookAtTypeName"] == "Bone"
        assert vrm["firstPerson"]["firstPersonBone"] == bone_nodes(Reader(file))["head"]


def test_expressions_are_the_standards_and_perfect_sync(file: Path, head: HeadModel) -> None:
    read = Reader(file)
    name, vrm = body(read)
    count = len(read.gltf.meshes[0].primitives[0].targets)
    if name == "VRMC_vrm":
        expressions = vrm["expressions"]
        assert expressions["preset"].keys() == PRESETS
        assert list(expressions["custom"]) == list(head.expression_names)
        for entry in [*expressions["preset"].values(), *expressions["custom"].values()]:
            assert {entry[key] for key in ("overrideBlink", "overrideLookAt", "overrideMouth")} == {"none"}
            binds = entry.get("morphTargetBinds", [])
            assert all(0 <= bind["index"] < count for bind in binds)
            assert all(0 < bind["weight"] <= 1 for bind in binds)
            assert all(read.gltf.nodes[bind["node"]].mesh == 0 for bind in binds)
        assert "morphTargetBinds" not in expressions["preset"]["neutral"]
        (bind,) = expressions["custom"]["jawOpen"]["morphTargetBinds"]
        assert bind["index"] == head.expression_names.index("jawOpen")
    else:
        groups = {group["name"]: group for group in vrm["blendShapeMaster"]["blendShapeGroups"]}
        assert {group["presetName"] for group in groups.values()} == PRESETS_0
        assert groups["Surprised"]["presetName"] == "unknown"
        assert groups.keys() >= {name[0].upper() + name[1:] for name in head.expression_names}
        assert groups["JawOpen"]["binds"] == [
            {"mesh": 0, "index": head.expression_names.index("jawOpen"), "weight": 100}
        ]
        assert all(0 < bind["weight"] <= 100 for group in groups.values() for bind in group["binds"])


def test_expressions_name_shapes_that_there_are(head: HeadModel) -> None:
    for preset in EXPRESSIONS:
        assert expression_weights(preset).keys() <= set(head.expression_names), preset
    assert expression_weights("blink") == {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}
    assert expression_weights("lookLeft").keys() == {"eyeLookOutLeft", "eyeLookInRight"}


def test_nobody_answers(avatar: Avatar, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--author"):
        export_avatar(avatar, tmp_path / "a.vrm", "vrm", author=" ")
    assert not list(tmp_path.iterdir())


SCRIPT = """  let mesh;
  vrm.scene.traverse((node) => { if (node.isSkinnedMesh) mesh = node; });
  mesh.frustumCulled = false;
  const manager = vrm.expressionManager;
  const key = (name) => manager.getExpression(name) ? name : name[0].toUpperCase() + name.slice(1);
  manager.setValue(key("jawOpen"), 0.6);
  manager.setValue(key("mouthSmileLeft"), 0.8);
  vrm.humanoid.getNormalizedBoneNode("head").rotation.y = 0.4;
  vrm.update(0);
  scene.updateMatrixWorld(true);
  const points = [];
  for (let index = 0; index < mesh.geometry.attributes.position.count; index += 7) {
    const point = mesh.getVertexPosition(index, new THREE.Vector3()).applyMatrix4(mesh.matrixWorld);
    points.push([point.x, point.y, point.z]);
  }
  const canvas = document.getElementById("c");
  const renderer = new THREE.WebGLRenderer({ canvas, preserveDrawingBuffer: true });
  renderer.setClearColor(0xdddddd);
  const camera = new THREE.PerspectiveCamera(20, 900 / 700, 0.1, 10);
  camera.position.set(0, 1.55, 1.4);
  renderer.render(scene, camera);
  finish({ meta: vrm.meta.metaVersion, bones: Object.keys(vrm.humanoid.humanBones).length,
           presets: Object.keys(manager.presetExpressionMap), points });"""


@pytest.mark.slow
def test_three_vrm_loads_and_drives_it(file: Path, avatar: Avatar, tmp_path: Path) -> None:
    modules = Path(node_folder("@pixiv/three-vrm")) / "node_modules"
    (tmp_path / "index.html").write_text(vrm_page(SCRIPT, width=900))
    (tmp_path / "me.vrm").write_bytes(file.read_bytes())
    picture = file.parent / "three-vrm.png"
    found = show({"modules": modules, "page": tmp_path}, "page/index.html", picture)
    assert "error" not in found, found["error"]
    assert found["meta"] == {"VRMC_vrm": "1", "VRM": "0"}[body(Reader(file))[0]]
    assert found["bones"] >= len(REQUIRED)
    assert set(found["presets"]) >= PRESETS - {"surprised"}
    # Its vertices match the model's with the same expression and neck pose.
    params, names = at_rest(avatar.source.params), avatar.model.head.expression_names
    expression = torch.zeros(1, len(names))
    expression[0, names.index("jawOpen")], expression[0, names.index("mouthSmileLeft")] = 0.6, 0.8
    neck = torch.tensor([[0.0, 0.4, 0.0]])
    driven = dataclasses.replace(params, expression=expression, neck_pose=neck)
    read = Reader(file)
    positions = read[read.primitive.attributes.POSITION][::7].copy()
    if found["meta"] == "0":
        positions *= (-1, 1, -1)
    rest = avatar.rest_mesh().vertices[0].numpy() + np.array([0, 1.6, 0])
    distance, nearest = cKDTree(rest).query(positions)
    own = distance < 1e-5
    expected = avatar.posed_mesh(driven).vertices[0].numpy() + np.array([0, 1.6, 0])
    error = np.linalg.norm(np.asarray(found["points"])[own] - expected[nearest[own]], axis=1)
    # A thousandth of the head's height.
    assert error.max() < 2.5e-4
