"""Small files contain the same person up to quantization, and three.js opens them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_page import FINISH, show
from glb_reader import Reader
from gltf_validator import khronos_issues, node_folder
from PIL import Image
from scipy.spatial.transform import Rotation

from rome_lightning.export import Person, export_glb
from rome_lightning.export.packing import whole_weights
from rome_lightning.export.profiles import PLAIN

HEIGHT = 0.25
"""Height of a head, metres."""
KINDS = ("quantize", "draco")


@pytest.fixture(scope="module")
def files(person: Person, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("DracoPy")
    folder = tmp_path_factory.mktemp("small")
    profiles = {kind: dataclasses.replace(PLAIN, compress=kind, texture="webp") for kind in KINDS}
    profiles["plain"] = dataclasses.replace(PLAIN, texture="jpeg")
    return {
        name: export_glb(folder / f"{name}.glb", person, profile=profile)
        for name, profile in profiles.items()
    }


def test_sizes_fall(files: dict[str, Path]) -> None:
    plain, quantized, packed = (files[name].stat().st_size for name in ("plain", *KINDS))
    assert quantized < 0.6 * plain
    assert packed < 0.45 * plain


def test_quantized_vertices_and_displacements(files: dict[str, Path]) -> None:
    small, whole = Reader(files["quantize"]), Reader(files["plain"])
    assert small.gltf.extensionsRequired == ["KHR_mesh_quantization", "EXT_texture_webp"]
    weights = {"jawOpen": 0.8, "mouthSmileLeft": 1.0, "eyeBlinkRight": 0.6, "browInnerUp": 0.5}
    turns = {"neck": Rotation.from_rotvec([0.2, 0.5, -0.1]).as_matrix()}
    distance = np.linalg.norm(small.pose(weights, turns) - whole.pose(weights, turns), axis=-1)
    assert 0 < distance.max() < 2e-4 * HEIGHT
    for name, bound in (("NORMAL", 1 / 127), ("TEXCOORD_0", 1 / 65535), ("WEIGHTS_0", 3 / 65535)):
        found, expected = (reader[getattr(reader.primitive.attributes, name)] for reader in (small, whole))
        assert np.abs(found - expected).max() < bound


def test_draco_unpacks_to_the_same_vertices_in_the_same_order(files: dict[str, Path]) -> None:
    draco = pytest.importorskip("DracoPy")
    small, whole = Reader(files["draco"]), Reader(files["plain"])
    packed = small.primitive.extensions["KHR_draco_mesh_compression"]
    view = small.gltf.bufferViews[packed["bufferView"]]
    mesh = draco.decode(small.blob[view.byteOffset : view.byteOffset + view.byteLength])
    found = {each["unique_id"]: each["data"] for each in mesh.attributes}
    bounds = {"POSITION": 1e-5, "NORMAL": 5e-3, "TEXCOORD_0": 1e-4, "JOINTS_0": 0}
    for name, bound in bounds.items():
        expected = whole[getattr(whole.primitive.attributes, name)]
        assert np.abs(found[packed["attributes"][name]].astype(float) - expected).max() <= bound, name
    sums = found[packed["attributes"]["WEIGHTS_0"]].astype(int).sum(1)
    assert (sums == 65535).all()
    assert np.array_equal(mesh.faces.flatten(), whole[whole.primitive.indices][:, 0])
    # Displacements are stored outside and equal those of the quantized file.
    for name in ("jawOpen", "mouthPucker"):
        assert np.abs(small.target(name) - whole.target(name)).max() < 2e-5


def test_weights_sum_to_one_exactly() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 1000).astype(np.float32)
    integers = whole_weights(weights)
    assert (integers.astype(int).sum(1) == 65535).all()
    assert np.abs(integers / 65535 - weights).max() < 3 / 65535


def test_the_texture_is_webp(files: dict[str, Path], person: Person) -> None:
    read = Reader(files["draco"])
    assert read.gltf.images[0].mimeType == "image/webp"
    view = read.gltf.bufferViews[read.gltf.images[0].bufferView]
    picture = Image.open(io.BytesIO(read.blob[view.byteOffset : view.byteOffset + view.byteLength]))
    assert picture.format == "WEBP"
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    assert float((pixels - person.colour_texture).abs().max()) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_khronos_validator_finds_nothing(kind: str, files: dict[str, Path]) -> None:
    assert khronos_issues(files[kind]) == []


PAGE = """<!doctype html><html><head><script type="importmap">{"imports": {
  "three": "/modules/three/build/three.module.js",
  "three/addons/": "/modules/three/examples/jsm/"
}}</script></head><body style="margin:0">
<script type="module">
FINISH
try {
  const THREE = await import("three");
  const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");
  const { DRACOLoader } = await import("three/addons/loaders/DRACOLoader.js");
  const draco = new DRACOLoader().setDecoderPath("/modules/three/examples/jsm/libs/draco/gltf/");
  const loader = new GLTFLoader().setDRACOLoader(draco);
  const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
  renderer.setSize(900, 300); renderer.setClearColor(0xffffff); renderer.autoClear = false;
  document.body.append(renderer.domElement);
  const camera = new THREE.PerspectiveCamera(30, 1, 0.01, 10);
  camera.position.set(0, 0.05, 0.9); camera.lookAt(0, 0.02, 0);
  const found = {};
  let column = 0;
  for (const name of ["plain", "quantize", "draco"]) {
    const { scene } = await loader.loadAsync(name + ".glb");
    const stage = new THREE.Scene(); stage.add(scene, new THREE.AmbientLight(0xffffff, 3));
    scene.updateMatrixWorld(true);
    let mesh; scene.traverse((node) => { if (node.isSkinnedMesh) mesh = node; });
    mesh.morphTargetInfluences[mesh.morphTargetDictionary.jawOpen] = 1;
    mesh.morphTargetInfluences[mesh.morphTargetDictionary.mouthSmileLeft] = 0.5;
    const points = [];
    const point = new THREE.Vector3();
    for (let index = 0; index < mesh.geometry.attributes.position.count; index += 50)
      points.push(mesh.getVertexPosition(index, point).toArray());
    found[name] = points;
    renderer.setViewport(300 * column, 0, 300, 300); column += 1;
    renderer.render(stage, camera);
  }
  await finish(found);
} catch (error) { finish({ error: String(error.stack ?? error) }); }
</script></body></html>""".replace("FINISH", FINISH)


@pytest.mark.slow
def test_three_opens_and_moves_them(files: dict[str, Path], tmp_path: Path) -> None:
    modules = Path(node_folder("three")) / "node_modules"
    folder = files["plain"].parent
    (folder / "index.html").write_text(PAGE)
    picture = tmp_path / "three.png"
    found = show({"modules": modules, "page": folder}, "page/index.html", picture)
    assert "error" not in found, found["error"]
    plain = np.array(found["plain"])
    weights = {"jawOpen": 1.0, "mouthSmileLeft": 0.5}
    assert np.abs(plain - Reader(files["plain"]).pose(weights)[::50]).max() < 1e-5
    for kind in KINDS:
        assert np.linalg.norm(np.array(found[kind]) - plain, axis=-1).max() < 2e-4 * HEIGHT
    # Rendered side by side they look the same.
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(float)[:300, :900]
    left, *others = np.split(pixels, 3, axis=1)
    assert left.std() > 20
    for other in others:
        assert np.abs(other - left).mean() < 2
