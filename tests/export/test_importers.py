"""Importers that other programs are built on open the files, find all names, and replay clips and poses."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assimp_reader import read_with_assimp
from browser_page import FINISH, show
from glb_reader import Reader
from gltf_validator import node_folder
from helpers import random_params
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rome_lightning.export import Motion, Person, export_glb
from rome_lightning.export.profiles import PROFILES
from rome_lightning.export.visemes import VISEMES
from rome_lightning.export.vrm import VrmMeta, export_vrm
from rome_lightning.head import JOINTS, HeadModel

TOLERANCE = 2.5e-4
"""A thousandth of a head's height, metres."""
FRAMES = 4
RATE = 25
KINDS = ["unity", "unreal", "three", "unreal with a body", "vrm", "vrm0 with a body"]


@pytest.fixture(scope="module")
def motion(head: HeadModel) -> Motion:
    return Motion(random_params(head, FRAMES), torch.arange(FRAMES) / RATE, "talk")


@pytest.fixture(scope="module", params=KINDS)
def file(
    request: pytest.FixtureRequest, person: Person, motion: Motion, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A GLB with a clip, or a VRM, which has none."""
    name, _, body = request.param.partition(" with ")
    worn = dataclasses.replace(person, body_texture=person.colour_texture) if body else person
    path = tmp_path_factory.mktemp("importers") / "me.glb"
    if name in PROFILES:
        return export_glb(path, worn, profile=PROFILES[name], motion=motion)
    version: Any = {"vrm": "1.0", "vrm0": "0.0"}[name]
    return export_vrm(path, worn, VrmMeta("me", "Jane Doe"), version)


def bone(read: Reader, *names: str) -> str:
    """The one of these bones that a file has."""
    (found,) = {node.name for node in read.gltf.nodes} & set(names)
    return found


def pose_of(read: Reader, motion: Motion, frame: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Weights and rotations of a clip's frame; without a clip, one expression with head and jaw turned."""
    if not read.gltf.animations:
        turns = {bone(read, "head"): [0.1, 0.4, 0.0], bone(read, "jaw"): [0.1 * frame, 0.0, 0.0]}
        return {"jawOpen": 0.6, "mouthSmileLeft": 0.8}, {
            name: Rotation.from_rotvec(turn).as_matrix() for name, turn in turns.items()
        }
    params = motion.params
    left, right = params.eye_pose.split(3, dim=-1)
    poses = {bone(read, "jaw", "Jaw"): params.jaw_pose}
    poses |= {bone(read, "left_eye", "LeftEye"): left, bone(read, "right_eye", "RightEye"): right}
    rotations = {name: Rotation.from_rotvec(pose[frame].numpy()).as_matrix() for name, pose in poses.items()}
    root = Rotation.from_rotvec(params.global_pose[frame].numpy()).as_matrix()
    neck = Rotation.from_rotvec(params.neck_pose[frame].numpy()).as_matrix()
    # A standing rig's trunk stays still.
    is_standing = len(read.gltf.skins[0].joints) > len(JOINTS)
    rotations |= {"Head": root @ neck} if is_standing else {"root": root, "neck": neck}
    names = read.gltf.meshes[0].extras["targetNames"]
    return dict(zip(names, params.expression[frame].tolist(), strict=False)), rotations


def names_of(read: Reader) -> tuple[list[str], list[str]]:
    """Shapes and bones."""
    bones = [read.gltf.nodes[joint].name for joint in read.gltf.skins[0].joints]
    return read.gltf.meshes[0].extras["targetNames"], bones


def test_files_hold_arkits_names(file: Path, head: HeadModel) -> None:
    shapes, bones = names_of(Reader(file))
    assert shapes[:52] == list(head.expression_names)
    assert shapes[52:] in ([], list(VISEMES))
    assert len(bones) in (5, 55)


@pytest.mark.parametrize("name", ["neck", "Head", "hips", "Armature", "body"])
def test_a_mesh_named_like_a_bone_gets_another_name(name: str, person: Person, tmp_path: Path) -> None:
    worn = dataclasses.replace(person, body_texture=person.colour_texture)
    files = [
        export_glb(tmp_path / "bust.glb", person, name=name),
        export_glb(tmp_path / "body.glb", worn, name=name),
        export_vrm(tmp_path / "bust.vrm", person, VrmMeta(name, "Jane Doe")),
        export_vrm(tmp_path / "body.vrm", worn, VrmMeta(name, "Jane Doe"), "0.0"),
    ]
    for file in files:
        names = [node.name for node in Reader(file).gltf.nodes]
        assert len({one.lower() for one in names}) == len(names), file
        assert names[0] in (name, name + "_mesh")
    assert names_of(Reader(files[1]))[1].count("Neck") == 1


def test_assimp_opens_it(file: Path, motion: Motion) -> None:
    read, scene = Reader(file), read_with_assimp(file)
    shapes, bones = names_of(read)
    for number, mesh in enumerate(scene.meshes):
        read.mesh = number
        assert list(mesh.bones) == bones
        assert list(mesh.shapes) == (shapes if number == 0 else [])
        assert mesh.num_faces == len(read[read.primitive.indices]) // 3
    assert len(scene.meshes) == len(read.gltf.meshes) == scene.num_textures
    moved = []
    for frame in range(FRAMES):
        weights, rotations = pose_of(read, motion, frame)
        if read.gltf.animations:
            # Assimp's own copy of the clip.
            weights = dict(zip(shapes, scene.weights[frame].tolist(), strict=True))
            own = {
                name: Rotation.from_quat(keys[frame][[1, 2, 3, 0]]) for name, keys in scene.rotations.items()
            }
            rotations = {name: turn.as_matrix() for name, turn in own.items()}
        expected_pose = pose_of(read, motion, frame)
        for number, mesh in enumerate(scene.meshes):
            read.mesh = number
            expected = read.pose(expected_pose[0] if number == 0 else {}, expected_pose[1])
            found = scene.pose(mesh, weights if number == 0 else {}, rotations)
            # Assimp writes vertices in the order of the triangles.
            positions = read[read.primitive.attributes.POSITION]
            at_rest, same = cKDTree(positions).query(mesh.vertices)
            assert max(at_rest.max(), cKDTree(mesh.vertices).query(positions)[0].max()) < 1e-6
            assert np.linalg.norm(found - expected[same], axis=1).max() < TOLERANCE
        moved.append(scene.pose(scene.meshes[0], weights, rotations))
    assert np.linalg.norm(moved[1] - moved[2], axis=1).max() > 0.01


BABYLON = """
import { NullEngine } from "@babylonjs/core/Engines/nullEngine.js";
import { Scene } from "@babylonjs/core/scene.js";
import { Quaternion } from "@babylonjs/core/Maths/math.vector.js";
import { LoadAssetContainerAsync } from "@babylonjs/core/Loading/sceneLoader.js";
import "@babylonjs/loaders/glTF/index.js";
import fs from "fs";
const [file, poses, output] = JSON.parse(process.env.ROME_CHECK);
const scene = new Scene(new NullEngine());
scene.useRightHandedSystem = true;
const options = { pluginExtension: ".glb" };
const content = await LoadAssetContainerAsync(new Uint8Array(fs.readFileSync(file)), scene, options);
content.addAllToScene();
const meshes = content.meshes.filter((mesh) => mesh.getTotalVertices() > 0);
const mesh = meshes.find((one) => one.morphTargetManager);
const manager = mesh.morphTargetManager;
const shapes = Array.from({ length: manager.numTargets }, (_, index) => manager.getTarget(index));
const group = content.animationGroups[0];
if (group) {
  group.start();
  group.pause();
}
const frames = [];
for (const [time, weights, rotations] of poses) {
  if (group) {
    group.goToFrame(time * 60);
  } else {
    shapes.forEach((shape) => { shape.influence = weights[shape.name] ?? 0; });
    for (const [name, turn] of Object.entries(rotations)) {
      scene.getTransformNodeByName(name).rotationQuaternion = Quaternion.FromArray(turn);
    }
  }
  scene.transformNodes.forEach((node) => node.computeWorldMatrix(true));
  for (const one of meshes) {
    one.computeWorldMatrix(true);
    one.skeleton.prepare(true);
    frames.push(...one.getPositionData(true, true));
  }
}
fs.writeFileSync(output, new Float32Array(frames));
console.log(JSON.stringify({
  shapes: shapes.map((shape) => shape.name), bones: mesh.skeleton.bones.map((bone) => bone.name),
  faces: meshes.map((one) => one.getTotalIndices() / 3),
  clips: content.animationGroups.map((one) => one.name),
  textures: content.materials.map((one) => one.getActiveTextures().length),
}));
"""


def test_babylon_replays_it(file: Path, motion: Motion, tmp_path: Path) -> None:
    folder, read = node_folder("@babylonjs/loaders"), Reader(file)
    shapes, bones = names_of(read)
    poses = [pose_of(read, motion, frame) for frame in range(FRAMES)]
    told = [
        (
            frame / RATE,
            weights,
            {n: Rotation.from_matrix(turn).as_quat().tolist() for n, turn in turns.items()},
        )
        for frame, (weights, turns) in enumerate(poses)
    ]
    output = tmp_path / "frames"
    result = subprocess.run(
        ["node", "--input-type=module", "-e", BABYLON],
        cwd=folder,
        env={**os.environ, "ROME_CHECK": json.dumps([str(file), told, str(output)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["shapes"] == shapes
    assert set(found["bones"]) >= set(bones)
    assert found["clips"] == (["talk"] if read.gltf.animations else [])
    assert found["textures"] == [1] * len(read.gltf.images)
    expected = []
    for weights, rotations in poses:
        for number in range(len(read.gltf.meshes)):
            read.mesh = number
            expected.append(read.pose(weights if number == 0 else {}, rotations))
    points = np.fromfile(output, np.float32).reshape(-1, 3)
    assert np.linalg.norm(points - np.concatenate(expected), axis=1).max() < TOLERANCE


THREE = (
    """<!doctype html><html><head><script type="importmap">{"imports": {
  "three": "/modules/three/build/three.module.js", "three/addons/": "/modules/three/examples/jsm/"
}}</script></head><body style="margin:0"><script type="module">
FINISH
try {
  const THREE = await import("three");
  const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");
  const gltf = await new GLTFLoader().loadAsync("me.glb");
  const meshes = [];
  gltf.scene.traverse((node) => { if (node.isSkinnedMesh) meshes.push(node); });
  const mixer = new THREE.AnimationMixer(gltf.scene);
  const action = mixer.clipAction(gltf.animations[0]);
  action.setLoop(THREE.LoopOnce);
  action.clampWhenFinished = true;
  action.play();
  const points = [];
  for (let frame = 0; frame < FRAMES; frame += 1) {
    mixer.setTime(frame / RATE);
    gltf.scene.updateMatrixWorld(true);
    for (const mesh of meshes) {
      for (let index = 0; index < mesh.geometry.attributes.position.count; index += 7) {
        const point = mesh.getVertexPosition(index, new THREE.Vector3()).applyMatrix4(mesh.matrixWorld);
        points.push(point.toArray().map((value) => Number(value.toFixed(6))));
      }
    }
  }
  finish({ points, shapes: Object.keys(meshes[0].morphTargetDictionary), meshes: meshes.length });
} catch (error) { finish({ error: String(error.stack ?? error) }); }
</script></body></html>""".replace("FINISH", FINISH)
    .replace("FRAMES", str(FRAMES))
    .replace("RATE", str(RATE))
)


@pytest.mark.slow
def test_three_replays_a_clip(file: Path, motion: Motion, tmp_path: Path) -> None:
    modules, read = Path(node_folder("three")) / "node_modules", Reader(file)
    if not read.gltf.animations:
        pytest.skip("a VRM file has no clip; test_vrm.py poses it with three-vrm")
    (tmp_path / "index.html").write_text(THREE)
    (tmp_path / "me.glb").write_bytes(file.read_bytes())
    found = show({"modules": modules, "page": tmp_path}, "page/index.html", tmp_path / "three.png")
    assert "error" not in found, found["error"]
    assert found["shapes"] == names_of(read)[0]
    assert found["meshes"] == len(read.gltf.meshes)
    expected = []
    for frame in range(FRAMES):
        weights, rotations = pose_of(read, motion, frame)
        for number in range(len(read.gltf.meshes)):
            read.mesh = number
            expected.append(read.pose(weights if number == 0 else {}, rotations)[::7])
    error = np.linalg.norm(np.asarray(found["points"]) - np.concatenate(expected), axis=1)
    assert error.max() < TOLERANCE
