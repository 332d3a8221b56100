"""The neural rendering in a browser equals Python's."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_page import FINISH, show
from helpers import perturbed, random_frames, random_params, small_config, without_carry
from PIL import Image

from rome_lightning.assets.registry import REGISTRY
from rome_lightning.avatar import Avatar
from rome_lightning.export import browser_networks
from rome_lightning.export.browser_networks import export_browser_networks
from rome_lightning.export.onnx import run_network
from rome_lightning.export.web_page import export_web
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.renderer.nearest_fill import nearest_covered
from rome_lightning.types import HeadParams
from rome_lightning.viewer import browser

NUM_STATES = 10
SIZE = 64


@pytest.fixture(scope="module")
def avatar(head: HeadModel) -> Avatar:
    config = small_config()
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, normals="camera"))
    model = perturbed(AvatarModel(config, head)).eval().requires_grad_(False)
    return Avatar.create(model, random_frames(head, 1), image_size=SIZE, refine_steps=0)


def states(avatar: Avatar) -> HeadParams:
    """Poses and expressions with the photograph's camera; ``mouthClose`` never exceeds ``jawOpen``."""
    params = random_params(avatar.model.head, NUM_STATES, seed=7)
    names = avatar.model.head.expression_names
    params.expression[:, names.index("mouthClose")] = 0
    changed = {
        "camera": avatar.source.params.camera.expand(NUM_STATES, -1),
        "shape": avatar.code.shape.expand(NUM_STATES, -1),
    }
    return HeadParams(**vars(params) | changed)


def rotations(params: HeadParams) -> torch.Tensor:
    return torch.cat([params.global_pose, params.neck_pose, params.jaw_pose, params.eye_pose], dim=1)


def rgba(avatar: Avatar, params: HeadParams) -> np.ndarray:
    """Python's image with straight alpha, bytes."""
    code = avatar.code.repeat_interleave(len(params))
    drawn = avatar.model.render(code, params, (SIZE, SIZE))
    both = torch.cat([drawn.rgb.clamp(0, 1), drawn.mask], dim=1)
    return (255 * both).round().byte().permute(0, 2, 3, 1).numpy()


def on_white(picture: np.ndarray) -> np.ndarray:
    colour, opacity = picture[..., :3] / 255.0, picture[..., 3:] / 255.0
    return np.asarray(1 + (colour - 1) * opacity)


def test_the_programs_draw_what_the_model_draws(avatar: Avatar, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    written = export_browser_networks(avatar, tmp_path)
    assert {path.name for path in written} == {"mesh.onnx", "picture.onnx", "faces.bin", "neural.json"}
    about = json.loads((tmp_path / "neural.json").read_text())
    assert about["size"] == SIZE
    assert about["expressions"] == list(avatar.model.head.expression_names)
    faces = np.fromfile(tmp_path / "faces.bin", "<u2").reshape(-1, 3)
    np.testing.assert_array_equal(faces, avatar.model.head.faces)
    params = states(avatar)
    expected = rgba(avatar, params)
    for index in range(3):
        one = params[slice(index, index + 1)]
        posed = {"expression": one.expression, "rotations": rotations(one), "camera": one.camera}
        vertices = run_network(tmp_path / "mesh.onnx", posed)["vertices"]
        ids = avatar.model.rasterizer.face_ids(vertices, avatar.model.head.faces, (SIZE, SIZE))
        nearest, _ = nearest_covered(ids >= 0)
        seen = {"vertices": vertices, "face_ids": ids, "nearest": nearest}
        picture = run_network(tmp_path / "picture.onnx", seen)["picture"][0]
        difference = on_white((255 * picture).permute(1, 2, 0).numpy()) - on_white(expected[index])
        assert np.abs(difference).max() < 0.01


def test_a_program_that_gives_something_else_is_not_left(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    wrong = {"vertices": torch.zeros(1)}
    monkeypatch.setattr(browser_networks, "run_network", lambda path, inputs: wrong)
    with pytest.raises(ValueError, match=r"mesh\.onnx differs from PyTorch"):
        export_browser_networks(avatar, tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_without_carried_photographs_are_refused(head: HeadModel, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = perturbed(AvatarModel(without_carry(small_config()), head)).eval().requires_grad_(False)
    other = Avatar.create(model, random_frames(head, 1), refine_steps=0)
    with pytest.raises(ValueError, match=r"avatar\.decoder\.carry"):
        export_browser_networks(other, tmp_path)
    assert not list(tmp_path.iterdir())


PAGE = """<!doctype html><html><body style="margin:0">
<iframe id="f" src="me/index.html?background=204080" style="width:1000px;height:760px;border:0"></iframe>
<script type="module">
FINISH
const frame = document.getElementById("f");
const errors = [];
const encoded = (data) => btoa(Array.from(data, (value) => String.fromCharCode(value)).join(""));
try {
  await new Promise((done) => addEventListener("message", (event) => event.data?.avatar?.ready && done()));
  const inner = frame.contentWindow;
  inner.addEventListener("error", (event) => errors.push(event.message));
  inner.document.addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
  const { names, states } = await (await fetch("states.json")).json();
  const pictures = [];
  const shown = inner.document.getElementById("neural");
  await inner.avatar.picture();
  // A picture is not shown unless that is asked for.
  const before = shown.hidden;
  const answer = new Promise((hear) => addEventListener("message", hear, { once: true }));
  inner.postMessage({ avatar: { neural: true } }, "*");
  const { done } = (await answer).data.avatar;
  const after = shown.hidden;
  const buttons = [...inner.document.querySelectorAll("#controls button")].map((each) => each.textContent);
  for (const { expression, poses } of states) {
    inner.avatar.set(Object.fromEntries(names.map((name, index) => [name, expression[index]])));
    inner.avatar.pose(poses);
    pictures.push(encoded((await inner.avatar.picture()).data));
  }
  const film = await inner.avatar.record(1);
  const hosts = inner.performance.getEntriesByType("resource").map((entry) => entry.name);
  finish({ pictures, hosts, errors, host: location.host, size: [shown.width, shown.height],
           before, done, after, buttons, film: film.size });
} catch (error) { finish({ error: String(error.stack ?? error), errors }); }
</script></body></html>""".replace("FINISH", FINISH)


def shown_in_browser(avatar: Avatar, folder: Path, params: HeadParams) -> tuple[Any, np.ndarray]:
    """The page's messages and images, from an exported folder ``me`` inside ``folder``."""
    joints = ("root", "neck", "jaw", "left_eye", "right_eye")
    listed = [
        {
            "expression": weights,
            "poses": dict(zip(joints, torch.tensor(turns).view(5, 3).tolist(), strict=True)),
        }
        for weights, turns in zip(params.expression.tolist(), rotations(params).tolist(), strict=True)
    ]
    document = {"names": list(avatar.model.head.expression_names), "states": listed}
    (folder / "states.json").write_text(json.dumps(document))
    (folder / "index.html").write_text(PAGE)
    folders = {
        "me": folder / "me",
        "index.html": folder / "index.html",
        "states.json": folder / "states.json",
    }
    found = show(folders, "index.html", folder / "neural.png")
    assert "error" not in found, found
    size = avatar.network_size
    pictures = [np.frombuffer(base64.b64decode(text), np.uint8) for text in found["pictures"]]
    return found, np.stack(pictures).reshape(len(params), size, size, 4)


@pytest.mark.slow
def test_a_browser_draws_what_python_draws(avatar: Avatar, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    written = export_web(avatar, tmp_path / "me", neural=True)
    assert tmp_path / "me" / "neural" / REGISTRY["web_networks_wasm"].file in written
    params = states(avatar)
    found, pictures = shown_in_browser(avatar, tmp_path, params)
    assert found["errors"] == []
    assert found["hosts"]
    assert all(
        address.split("/")[2] == found["host"] or address.startswith("blob:") for address in found["hosts"]
    )
    assert found["size"] == [SIZE, SIZE]
    assert (found["before"], found["done"], found["after"]) == (True, ["neural"], False)
    assert found["buttons"] == ["Play example", "Neural render", "Microphone", "Record 5 s", "Reset"]
    # The page's colour is behind it, not the mesh.
    shown = np.asarray(Image.open(tmp_path / "neural.png").convert("RGB"))
    assert shown[10, 10].tolist() == [0x20, 0x40, 0x80]
    assert found["film"] > 500
    expected = on_white(rgba(avatar, params))
    for picture, reference in zip(on_white(pictures), expected, strict=True):
        # 40 dB of signals in [0, 1].
        assert np.square(picture - reference).mean() < 1e-4
    # The states differ from each other much more.
    assert np.square(expected[0] - expected[1]).mean() > 3e-4


GPU_PAGE = """<!doctype html><html><body style="margin:0">
<iframe id="f" style="width:1000px;height:760px;border:0"></iframe>
<script type="module">
FINISH
const frame = document.getElementById("f");
const encoded = (data) => btoa(Array.from(data, (value) => String.fromCharCode(value)).join(""));
const hasAdapter = Boolean(await navigator.gpu?.requestAdapter());
const found = { hasAdapter, backends: [], pictures: [], rates: [] };
try {
  // Once by WebGPU, and once where the address declines it.
  for (const options of ["", "?webgpu=0"]) {
    frame.src = "me/index.html" + options;
    await new Promise((done) => addEventListener("message", (event) => event.data?.avatar?.ready && done()));
    const { avatar, document: inner } = frame.contentWindow;
    avatar.set({ jawOpen: 0.5, mouthSmileLeft: 0.7 });
    found.backends.push(await avatar.backend());
    if (options) await avatar.neural();
    found.pictures.push(encoded((await avatar.picture()).data));
    found.rates.push(inner.getElementById("rate").textContent);
  }
  finish(found);
} catch (error) { finish({ ...found, error: String(error.stack ?? error) }); }
</script></body></html>""".replace("FINISH", FINISH)


@pytest.mark.slow
def test_webgpu_draws_what_webassembly_draws(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a software adapter, which takes half a minute per image."""
    pytest.importorskip("onnxscript")
    written = export_web(avatar, tmp_path / "me", neural=True, webgpu=True)
    assert tmp_path / "me" / "neural" / REGISTRY["web_networks_gpu_wasm"].file in written
    monkeypatch.setattr(browser, "_PATIENCE_S", 400)
    (tmp_path / "index.html").write_text(GPU_PAGE)
    folders = {"me": tmp_path / "me", "index.html": tmp_path / "index.html"}
    options = ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader"]
    found = show(folders, "index.html", tmp_path / "gpu.png", options=options)
    if not found["hasAdapter"]:
        pytest.skip("this browser has no WebGPU")
    assert "error" not in found, found
    assert found["backends"] == ["WebGPU", "WebAssembly"]
    assert re.fullmatch(
        r"neural render: \d+ ms a picture, [\d.]+ frames/s \(WebAssembly\)", found["rates"][1]
    )
    gpu, wasm = (
        np.frombuffer(base64.b64decode(text), np.uint8).reshape(SIZE, SIZE, 4).astype(float)
        for text in found["pictures"]
    )
    assert wasm.std() > 20
    # 50 dB of bytes.
    assert np.square(gpu - wasm).mean() < 0.65


def test_webgpu_goes_with_the_neural_render(avatar: Avatar, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--webgpu is for the neural render; give --neural too"):
        export_web(avatar, tmp_path / "me", webgpu=True)
    assert not (tmp_path / "me").exists()
