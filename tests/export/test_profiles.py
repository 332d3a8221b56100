"""Files for particular programs contain what those look for, and the programs open and animate them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_page import FINISH, show
from glb_reader import Reader
from gltf_validator import khronos_issues, node_folder
from helpers import random_params
from PIL import Image
from scipy.spatial.transform import Rotation

from rome_lightning.cli.avatar_export import PROFILES as CHOICES
from rome_lightning.export import Motion, Person, export_glb
from rome_lightning.export.profiles import PROFILES
from rome_lightning.export.skeleton import EYE_LEVEL
from rome_lightning.export.visemes import READY_PLAYER_ME, VISEMES
from rome_lightning.export.vrm import VrmMeta, export_vrm
from rome_lightning.head import HeadModel

SIDES = ("Left", "Right")
FINGERS = [f"Hand{finger}{n}" for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky") for n in (1, 2, 3)]
LIMBS = ["Shoulder", "Arm", "ForeArm", "Hand", *FINGERS, "UpLeg", "Leg", "Foot", "ToeBase", "Eye"]
MIXAMO = {"Hips", "Spine", "Spine1", "Spine2", "Neck", "Head", *(s + limb for s in SIDES for limb in LIMBS)}
HEIGHT = 0.25
"""Height of a head, metres; replayed motion may differ by a thousandth of it."""


@pytest.fixture(scope="module")
def files(person: Person, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("profiles")
    return {name: export_glb(folder / f"{name}.glb", person, profile=PROFILES[name]) for name in PROFILES}


@pytest.fixture(scope="module")
def motion(head: HeadModel) -> Motion:
    # 24 frames a second, as Blender's scenes have them.
    return Motion(random_params(head, 4), torch.arange(4) / 24, "talk")


def test_the_command_offers_all_profiles() -> None:
    assert set(CHOICES) == set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_khronos_validator_finds_nothing(name: str, files: dict[str, Path]) -> None:
    # Mixamo's rigs have a mesh below the armature; this is a warning, not an error.
    assert [issue for issue in khronos_issues(files[name]) if "NODE_SKINNED_MESH_NON_ROOT" not in issue] == []


@pytest.mark.parametrize("name", ["three", "talkinghead", "unity"])
def test_texture_and_material(name: str, files: dict[str, Path], person: Person) -> None:
    read = Reader(files[name])
    (image,) = read.gltf.images
    view = read.gltf.bufferViews[image.bufferView]
    content = read.blob[view.byteOffset : view.byteOffset + view.byteLength]
    assert image.mimeType == f"image/{PROFILES[name].texture}"
    shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) / 255
    assert np.abs(shown - person.colour_texture.movedim(0, -1).numpy()).max() < 0.03
    assert bool(read.gltf.extensionsUsed) == PROFILES[name].unlit


def test_engines_get_full_displacements_and_visemes(files: dict[str, Path], head: HeadModel) -> None:
    plain = Reader(files["three"])
    for name in ("unity", "unreal", "godot"):
        read = Reader(files[name])
        assert all(entry.sparse is None and entry.bufferView is not None for entry in read.gltf.accessors)
        assert read.gltf.meshes[0].extras["targetNames"] == [*head.expression_names, *VISEMES]
        np.testing.assert_array_equal(read.target("jawOpen"), plain.target("jawOpen"))
    mixed = 0.4 * plain.target("jawOpen") + 0.55 * plain.target("mouthFunnel")
    np.testing.assert_allclose(read.target("viseme_O"), mixed, atol=3e-5)


def test_blender_mirrors_the_eyes(files: dict[str, Path]) -> None:
    names = {node.name for node in Reader(files["blender"]).gltf.nodes}
    assert names >= {"eye.L", "eye.R", "jaw"}


@pytest.mark.parametrize("name", ["talkinghead", "readyplayerme"])
def test_a_mixamo_rig_stands_and_bends(
    name: str, files: dict[str, Path], person: Person, head: HeadModel
) -> None:
    read = Reader(files[name])
    assert {node.name for node in read.gltf.nodes} >= MIXAMO | {"Armature"}
    assert set(read.gltf.meshes[0].extras["targetNames"]) == {
        *head.expression_names,
        *VISEMES,
        *READY_PLAYER_ME,
    }
    at_rest = read.node_matrices({})
    places = {bone: matrix[:3, 3] for bone, matrix in at_rest.items()}
    for side, sign in (("Left", 1), ("Right", -1)):
        # T-pose: arms out to the sides, feet pointing forward and on the ground.
        assert sign * places[f"{side}HandPinky3"][0] > 0.7
        assert abs(places[f"{side}Hand"][1] - places[f"{side}Arm"][1]) < 1e-6
        assert 0 < places[f"{side}ToeBase"][1] < 0.1
        assert places[f"{side}ToeBase"][2] > places[f"{side}Foot"][2]
        # Each bone's y axis points along it, so that foreign poses bend it correctly.
        for bone, child in (("Shoulder", "Arm"), ("Arm", "ForeArm"), ("ForeArm", "Hand"), ("UpLeg", "Leg")):
            along = places[side + child] - places[side + bone]
            assert at_rest[side + bone][:3, 1] @ along / np.linalg.norm(along) > 0.98
    rest = read[read.primitive.attributes.POSITION]
    np.testing.assert_allclose(read.pose(), rest, atol=1e-6)
    # The head bone rotates the same vertices as the head model's neck joint.
    turn = Rotation.from_rotvec([0, 0.4, 0]).as_matrix()
    turned, own = read.pose({}, {"Head": turn}), Reader(files["three"]).pose({}, {"neck": turn})
    np.testing.assert_allclose(turned, own + np.array([0, 1.6, 0]), atol=1e-6)


def test_a_clip_turns_the_head_and_leaves_the_trunk(
    person: Person, head: HeadModel, motion: Motion, tmp_path: Path
) -> None:
    profile = PROFILES["talkinghead"]
    standing = Reader(export_glb(tmp_path / "me.glb", person, profile=profile, motion=motion))
    own = Reader(export_glb(tmp_path / "own.glb", person, profile=PROFILES["blender"]))
    (clip,) = standing.gltf.animations
    outputs = {}
    for channel in clip.channels:
        name = standing.gltf.nodes[channel.target.node].name
        outputs[name, channel.target.path] = standing[clip.samplers[channel.sampler].output].reshape(4, -1)
    assert {name for name, path in outputs if path == "rotation"} == {"Head", "Jaw", "LeftEye", "RightEye"}
    for frame in range(4):
        weights, rotations = pose_of(motion.params[slice(frame, frame + 1)], head)
        turned = {
            name: Rotation.from_quat(values[frame]).as_matrix()
            for (name, path), values in outputs.items()
            if path == "rotation"
        }
        # The head looks in the model's direction, and the body stays in place.
        whole = rotations.pop("root") @ rotations["neck"]
        expected = own.pose(weights, rotations | {"neck": whole}) + np.array([0, EYE_LEVEL, 0])
        error = np.linalg.norm(standing.pose(weights, turned) - expected, axis=1).max()
        assert error < 1e-3 * HEIGHT, frame
        assert Rotation.from_matrix(whole).magnitude() > 0.05


BLENDER = """
import json, sys
import bpy
import numpy as np
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[1])
mesh = next(thing for thing in bpy.data.objects if thing.type == "MESH" and thing.data.shape_keys)
frames = []
for frame in range(4):
    bpy.context.scene.frame_set(frame)
    posed = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get())
    points = [posed.matrix_world @ vertex.co for vertex in posed.data.vertices]
    # Blender's z points up, glTF's y.
    frames.append([(x, z, -y) for x, y, z in points])
np.save(sys.argv[2], np.asarray(frames, dtype=np.float32))
names = [block.name for block in mesh.data.shape_keys.key_blocks]
bones = [bone.name for bone in mesh.find_armature().data.bones]
print("FOUND" + json.dumps({"names": names, "bones": bones}))
"""


@pytest.mark.slow
def test_blender_replays_a_clip(person: Person, motion: Motion, head: HeadModel, tmp_path: Path) -> None:
    python = os.environ.get("BPY_PYTHON")
    if python is None:
        pytest.skip("BPY_PYTHON names a Python with Blender in it (`pip install bpy`, 300 MB)")
    file = export_glb(tmp_path / "me.glb", person, profile=PROFILES["blender"], motion=motion)
    command = [python, "-c", BLENDER, str(file), str(tmp_path / "frames.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.split("FOUND")[1].splitlines()[0])
    assert found["names"][1:] == list(head.expression_names)
    assert set(found["bones"]) == {"root", "neck", "jaw", "eye.L", "eye.R"}
    frames, read = np.load(tmp_path / "frames.npy"), Reader(file)
    assert frames.shape[1] == len(read[read.primitive.attributes.POSITION])
    for frame, points in enumerate(frames):
        params = motion.params[slice(frame, frame + 1)]
        expected = read.pose(*pose_of(params, head))
        assert np.linalg.norm(points - expected, axis=1).max() < 1e-3 * HEIGHT, frame
    assert np.linalg.norm(frames[1] - frames[2], axis=1).max() > 0.01


def pose_of(params: Any, head: HeadModel) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Weights and rotations by the names in a file for Blender."""
    left, right = params.eye_pose.split(3, dim=-1)
    poses = {"root": params.global_pose, "neck": params.neck_pose, "jaw": params.jaw_pose}
    poses |= {"eye.L": left, "eye.R": right}
    rotations = {name: Rotation.from_rotvec(pose[0].numpy()).as_matrix() for name, pose in poses.items()}
    return dict(zip(head.expression_names, params.expression[0].tolist(), strict=True)), rotations


BLENDER_BODY = """
import json, sys
import bpy
import numpy as np
from mathutils import Matrix, Vector
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[1])
armature = next(thing for thing in bpy.data.objects if thing.type == "ARMATURE")
for name, (x, y, z) in json.loads(sys.argv[2]).items():
    bone = armature.pose.bones[name]
    # Blender's z points up, glTF's y.
    axis, middle = Vector((x, -z, y)), Matrix.Translation(bone.head)
    bone.matrix = middle @ Matrix.Rotation(axis.length, 4, axis) @ middle.inverted() @ bone.matrix
    bpy.context.view_layer.update()
for name in ("head", "body"):
    meshes = [thing for thing in bpy.data.objects if thing.type == "MESH" and thing.find_armature()]
    mesh = next(thing for thing in meshes if bool(thing.data.shape_keys) == (name == "head"))
    posed = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get())
    points = [posed.matrix_world @ vertex.co for vertex in posed.data.vertices]
    np.save(f"{sys.argv[3]}/{name}.npy", np.asarray([(x, z, -y) for x, y, z in points], dtype=np.float32))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["glb", "vrm"])
def test_blender_turns_the_arms_of_a_body(kind: str, person: Person, tmp_path: Path) -> None:
    python = os.environ.get("BPY_PYTHON")
    if python is None:
        pytest.skip("BPY_PYTHON names a Python with Blender in it (`pip install bpy`, 300 MB)")
    worn, path = dataclasses.replace(person, body_texture=person.colour_texture), tmp_path / f"me.{kind}"
    file = export_glb(path, worn) if kind == "glb" else export_vrm(path, worn, VrmMeta("me", "Jane Doe"))
    arms = ("LeftArm", "RightForeArm") if kind == "glb" else ("leftUpperArm", "rightLowerArm")
    turns = {arms[0]: [0.3, 0.0, -1.1], arms[1]: [0.0, 0.8, 0.0]}
    command = [python, "-c", BLENDER_BODY, str(file), json.dumps(turns), str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    read = Reader(file)
    rest, nodes = read.node_matrices({}), read.gltf.nodes
    parents = {child: node.name for node in nodes for child in node.children or []}
    rotations = {}
    for index, node in enumerate(nodes):
        if node.name in turns:
            turned = Rotation.from_rotvec(turns[node.name]).as_matrix() @ rest[node.name][:3, :3]
            rotations[node.name] = rest[parents[index]][:3, :3].T @ turned
    moved = []
    for number, name in enumerate(("head", "body")):
        read.mesh = number
        found = np.load(tmp_path / f"{name}.npy")
        assert np.linalg.norm(found - read.pose({}, rotations), axis=1).max() < 1e-3 * HEIGHT, name
        moved.append(np.linalg.norm(found - read.pose(), axis=1).max())
    # The hand moves far, the shoulder of the bust a little.
    assert moved[1] > 0.5 > moved[0] > 0.005


GODOT = """extends SceneTree
func find(node):
	if node is MeshInstance:
		return node
	for child in node.get_children():
		var found = find(child)
		if found:
			return found
	return null
func _init():
	var mesh = find(load("res://me.glb").instance())
	var names = []
	var jaw = 0
	for shape in mesh.mesh.get_blend_shape_count():
		names.append(mesh.mesh.get_blend_shape_name(shape))
		if names[shape] == "jawOpen":
			jaw = shape
	var rest = mesh.mesh.surface_get_arrays(0)[0]
	var opened = mesh.mesh.surface_get_blend_shape_arrays(0)[jaw][0]
	var moves = []
	for vertex in rest.size():
		var move = opened[vertex] - rest[vertex]
		moves.append([move.x, move.y, move.z])
	print("FOUND", to_json({"names": names, "bones": mesh.get_parent().get_bone_count(), "moves": moves}))
	quit()
"""


@pytest.mark.slow
def test_godot_imports_it(files: dict[str, Path], tmp_path: Path) -> None:
    program = shutil.which(os.environ.get("GODOT", "godot3-server"))
    if program is None:
        pytest.skip("needs Debian's godot3-server, or GODOT=PROGRAM of version 3")
    shutil.copy(files["godot"], tmp_path / "me.glb")
    (tmp_path / "project.godot").write_text("config_version=4\n")
    (tmp_path / "check.gd").write_text(GODOT)
    environment = {**os.environ, "HOME": str(tmp_path)}
    common = [program, "--path", str(tmp_path)]
    # The editor imports the project's files; without a screen it never quits.
    with subprocess.Popen(
        [*common, "--editor"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as editor:
        for _ in range(600):
            if list(tmp_path.glob(".import/me.glb-*.md5")):
                break
            time.sleep(0.2)
        editor.kill()
    done = subprocess.run(
        [*common, "-s", "check.gd"], capture_output=True, text=True, env=environment, check=False
    )
    assert "FOUND" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.split("FOUND")[1].splitlines()[0])
    read = Reader(files["godot"])
    assert found["names"] == read.gltf.meshes[0].extras["targetNames"]
    assert found["bones"] == 5
    np.testing.assert_allclose(found["moves"], read.target("jawOpen"), atol=1e-4)


PAGE = """<!doctype html><html><head><script type="importmap">{"imports": {
  "three": "/modules/three/build/three.module.js",
  "three/addons/": "/modules/three/examples/jsm/",
  "talkinghead": "/modules/@met4citizen/talkinghead/modules/talkinghead.mjs"
}}</script></head><body style="margin:0"><div id="avatar" style="width:500px;height:500px"></div>
<script type="module">
FINISH
try {
  const { TalkingHead } = await import("talkinghead");
  const options = { ttsEndpoint: "none", lipsyncModules: [], cameraView: "head", modelFPS: 10 };
  const head = new TalkingHead(document.getElementById("avatar"), options);
  await head.showAvatar({ url: "me.glb", body: "F", avatarMood: "neutral" });
  head.setMood("happy");
  head.speakAudio({ audio: new AudioContext().createBuffer(1, 96000, 48000), words: ["ah"], wtimes: [0],
                    wdurations: [1500], visemes: ["aa"], vtimes: [0], vdurations: [1500] });
  const mesh = head.morphs[0];
  const weight = (name) => mesh.morphTargetInfluences[mesh.morphTargetDictionary[name]];
  let smile = 0, said = 0, turned = 0;
  for (let step = 0; step < 60; step += 1) {
    await new Promise((done) => setTimeout(done, 100));
    smile = Math.max(smile, weight("mouthSmile"));
    said = Math.max(said, weight("viseme_aa"));
    turned = Math.max(turned, Math.abs(head.armature.getObjectByName("Head").quaternion.x));
  }
  const eye = head.armature.position.clone();
  head.armature.getObjectByName("LeftEye").getWorldPosition(eye);
  finish({ smile, said, turned, eye: eye.y, shapes: Object.keys(mesh.morphTargetDictionary) });
} catch (error) { finish({ error: String(error.stack ?? error) }); }
</script></body></html>""".replace("FINISH", FINISH)


@pytest.mark.slow
@pytest.mark.parametrize("has_body", [False, True])
def test_talking_head_wears_it(has_body: bool, person: Person, tmp_path: Path) -> None:
    modules = Path(node_folder("@met4citizen/talkinghead")) / "node_modules"
    (tmp_path / "index.html").write_text(PAGE)
    worn = dataclasses.replace(person, body_texture=person.colour_texture if has_body else None)
    export_glb(tmp_path / "me.glb", worn, profile=PROFILES["talkinghead"])
    folders, sound = {"modules": modules, "page": tmp_path}, ["--autoplay-policy=no-user-gesture-required"]
    found = show(folders, "page/index.html", tmp_path / "talkinghead.png", options=sound)
    assert "error" not in found, found["error"]
    assert found["smile"] > 0.1
    assert found["said"] > 0.1
    assert found["turned"] > 0
    # The figure stands on the floor.
    assert 1.3 < found["eye"] < 1.9
    assert {*VISEMES, *READY_PLAYER_ME} <= set(found["shapes"])
