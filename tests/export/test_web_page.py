"""The exported web folder shows and animates the avatar in a browser, without requests to other hosts."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_page import FINISH, show
from glb_reader import Reader
from helpers import perturbed, random_frames, random_params, small_config
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rome_lightning.avatar import Avatar
from rome_lightning.export import Motion, web_page
from rome_lightning.export.web_page import export_web
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.types.params import at_rest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def avatar(head: HeadModel) -> Avatar:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    return Avatar.create(model, random_frames(head, 1), refine_steps=0)


@pytest.fixture(scope="module")
def folder(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    motion = Motion(random_params(avatar.model.head, 2), torch.tensor([0.0, 0.5]), "talk")
    folder = tmp_path_factory.mktemp("web") / "me"
    export_web(avatar, folder, motion)
    return folder


def test_the_folder_needs_no_other_host(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"index.html", "embed.html", "avatar.js", "avatar.glb"}
    for name in ("index.html", "embed.html"):
        text = (folder / name).read_text()
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)
    assert "default-src 'self'" in (folder / "index.html").read_text()
    assert [clip.name for clip in Reader(folder / "avatar.glb").gltf.animations] == ["talk"]


def test_without_a_clip_the_page_has_an_example(avatar: Avatar, tmp_path: Path) -> None:
    export_web(avatar, tmp_path)
    read = Reader(tmp_path / "avatar.glb")
    (clip,) = read.gltf.animations
    assert clip.name == "example"
    moved = {
        channel.target.path: np.ptp(read[clip.samplers[channel.sampler].output], axis=0).max()
        for channel in clip.channels
        if read.gltf.nodes[channel.target.node].name in ("avatar", "neck")
    }
    # Quaternions of turns by 28 degrees to both sides, and eyes that close.
    assert moved["rotation"] == pytest.approx(4 * np.sin(np.deg2rad(28) / 2) / 2, abs=0.02)
    assert moved["weights"] == pytest.approx(1, abs=0.01)


def test_parts_come_with_their_licence_and_go_when_they_are_not_wanted(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asset").write_bytes(b"from npm")
    monkeypatch.setattr(web_page, "resolve", lambda name: tmp_path / "asset")
    monkeypatch.setattr(web_page, "export_glb", lambda path, *given, **options: path)
    folder = tmp_path / "me"
    export_web(avatar, folder, webcam=True)
    assert 'data-parts="tracking"' in (folder / "index.html").read_text()
    assert {path.name for path in (folder / "tracking").iterdir()} == {
        *(
            "vision_bundle.mjs",
            "vision_wasm_internal.js",
            "vision_wasm_internal.wasm",
            "face_landmarker.task",
        ),
        "LICENSE.txt",
    }
    assert "Apache License" in (folder / "tracking" / "LICENSE.txt").read_text()
    export_web(avatar, folder)
    assert 'data-parts=""' in (folder / "index.html").read_text()
    assert not (folder / "tracking").exists()
    # Other files remain.
    export_web(avatar, folder, webcam=True)
    (folder / "tracking" / "mine.txt").write_text("mine")
    export_web(avatar, folder)
    assert [path.name for path in (folder / "tracking").iterdir()] == ["mine.txt"]


def test_nothing_is_written_of_a_page_that_cannot_be_whole(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(name: str) -> Path:
        raise FileNotFoundError(f"{name} cannot be fetched")

    monkeypatch.setattr(web_page, "resolve", resolve)
    with pytest.raises(FileNotFoundError, match="web_tracker cannot be fetched"):
        export_web(avatar, tmp_path / "me", webcam=True)
    # Its normals are not the camera's.
    with pytest.raises(ValueError, match="normals camera"):
        export_web(avatar, tmp_path / "me", neural=True)
    assert not (tmp_path / "me").exists()


def test_the_shipped_script_was_built_from_its_sources() -> None:
    digest = hashlib.sha256()
    for name in ("web.mjs", "neural.mjs", "package-lock.json"):
        digest.update((ROOT / "viewer" / name).read_bytes())
    head = (ROOT / "rome_lightning" / "export" / "web" / "avatar.js").read_text()[:2000]
    assert digest.hexdigest() in head, "run `make viewer`"
    assert "The MIT License" in head


# A page that embeds the avatar, sends it messages, and then inspects its vertices.
PAGE = """<!doctype html><html><body style="margin:0;background:#204080">
<iframe id="f" src="me/index.html" style="width:900px;height:700px;border:0"></iframe>
<iframe id="bare" src="me/index.html?controls=0" style="width:500px;height:700px;border:0"></iframe>
<script type="module">
FINISH
const frame = document.getElementById("f");
const next = (kind) => new Promise((done) => addEventListener("message", function hear(event) {
  if (event.source !== frame.contentWindow) return;
  if (event.data?.avatar?.[kind] === undefined && event.data?.avatar?.error === undefined) return;
  removeEventListener("message", hear);
  done(event.data.avatar);
}));
const tell = (what) => {
  const answer = next("done");
  frame.contentWindow.postMessage({ avatar: what }, "*");
  return answer;
};
const errors = [];
frame.contentWindow.addEventListener("error", (event) => errors.push(event.message));
try {
  const ready = await next("ready");
  const set = await tell({ set: { jawOpen: 0.6, mouthSmileLeft: 0.8 }, pose: { neck: [0, 0.4, 0] } });
  const wrong = await tell({ set: { nonsense: 1 } });
  const forbidden = await tell({ record: 1 });
  const missing = await tell({ neural: true });
  const inner = frame.contentWindow.avatar;
  Object.defineProperty(frame.contentWindow.navigator, "mediaDevices", { value: undefined });
  const unsafe = await inner.listen().catch((error) => error.message);
  const buttons = [...frame.contentDocument.querySelectorAll("button")].map((each) => each.textContent);
  const mesh = inner.mesh;
  let root = mesh;
  while (root.parent) root = root.parent;
  root.updateMatrixWorld(true);
  const points = [];
  for (let index = 0; index < mesh.geometry.attributes.position.count; index += 7) {
    const point = mesh.getVertexPosition(index, mesh.position.clone());
    points.push([point.x, point.y, point.z]);
  }
  const hosts = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  const sliders = frame.contentDocument.querySelectorAll("#controls input").length;
  const bare = document.getElementById("bare").contentWindow;
  while (!bare.document?.querySelector("[data-state=ready]")) {
    await new Promise((done) => setTimeout(done, 50));
  }
  const film = Object.assign(document.createElement("video"), { muted: true });
  film.src = URL.createObjectURL(await inner.record(3));
  await new Promise((done, refuse) => {
    film.onerror = () => refuse(film.error.message);
    film.requestVideoFrameCallback(done);
    film.play();
  });
  const drawn = document.createElement("canvas").getContext("2d");
  drawn.drawImage(film, 0, 0);
  const corner = [...drawn.getImageData(2, 2, 1, 1).data];
  finish({ corner, ready, set, wrong, forbidden, missing, unsafe, buttons, points, hosts, errors, sliders,
           host: location.host });
} catch (error) { finish({ error: String(error.stack ?? error) }); }
</script></body></html>""".replace("FINISH", FINISH)


@pytest.mark.slow
def test_a_browser_shows_it_and_other_pages_move_it(avatar: Avatar, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(PAGE)
    picture = folder.parent / "web.png"
    # The page is in the parent folder, as on a web host.
    found = show({"me": folder, "index.html": tmp_path / "index.html"}, "index.html", picture)
    assert "error" not in found, found["error"]
    head, names = avatar.model.head, avatar.model.head.expression_names
    assert found["ready"]["names"] == list(names)
    assert found["ready"]["clips"] == ["talk"]
    assert found["set"]["values"] == {"jawOpen": 0.6, "mouthSmileLeft": 0.8}
    assert "no expression nonsense" in found["wrong"]["error"]
    assert "not record" in found["forbidden"]["error"]
    assert "export it with --neural" in found["missing"]["error"]
    assert "https" in found["unsafe"]
    # None for parts that the folder lacks.
    assert found["buttons"] == ["Play talk", "Microphone", "Record 5 s", "Reset"]
    assert found["sliders"] == len(names)
    # A recording has the page's background.
    assert np.abs(np.array(found["corner"]) - (242, 243, 245, 255)).max() < 8
    assert found["errors"] == []
    assert found["hosts"]
    assert all(
        address.split("/")[2] == found["host"] or address.startswith("blob:") for address in found["hosts"]
    )
    expression = torch.zeros(1, head.num_expression)
    expression[0, names.index("jawOpen")], expression[0, names.index("mouthSmileLeft")] = 0.6, 0.8
    neck = torch.tensor([[0.0, 0.4, 0.0]])
    driven = dataclasses.replace(at_rest(avatar.source.params), expression=expression, neck_pose=neck)
    read = Reader(folder / "avatar.glb")
    positions = read[read.primitive.attributes.POSITION][::7]
    distance, nearest = cKDTree(avatar.rest_mesh().vertices[0].numpy()).query(positions)
    own = distance < 1e-6
    expected = avatar.posed_mesh(driven).vertices[0].numpy()[nearest[own]]
    error = np.linalg.norm(np.asarray(found["points"])[own] - expected, axis=1)
    # A thousandth of the head's height.
    assert error.max() < 2.5e-4
    # Something is drawn.
    shown = np.asarray(Image.open(picture).convert("RGB"))
    assert shown[:, :600].std() > 10
    # Without controls the page around it shows through.
    assert shown[10, 1390].tolist() == [0x20, 0x40, 0x80]


# A page around one of a person with a body, all of whose vertices it inspects.
BODY_PAGE = """<!doctype html><html><body style="margin:0">
<iframe id="f" src="me/index.html" style="width:700px;height:700px;border:0"></iframe>
<script type="module">
FINISH
const frame = document.getElementById("f");
try {
  while (frame.contentDocument?.querySelector("html")?.dataset.state !== "ready") {
    await new Promise((done) => setTimeout(done, 50));
  }
  const { avatar } = frame.contentWindow;
  const meshes = [];
  let root = avatar.mesh;
  while (root.parent) root = root.parent;
  root.traverse((node) => { if (node.isSkinnedMesh) meshes.push(node); });
  const look = () => {
    root.updateMatrixWorld(true);
    return meshes.map((mesh) => {
      const points = [];
      for (let index = 0; index < mesh.geometry.attributes.position.count; index += 7) {
        points.push(mesh.getVertexPosition(index, mesh.position.clone()).toArray());
      }
      return points;
    });
  };
  const before = look();
  avatar.set({ jawOpen: 0.6 });
  avatar.pose({ neck: [0, 0.4, 0], LeftArm: [0.3, 0, -0.7], RightForeArm: [0, -0.5, 0] });
  const after = look();
  avatar.reset();
  const again = look();
  avatar.pose({ LeftArm: [0, 0, 0.5] });
  const text = [...frame.contentDocument.querySelectorAll("button")].map((each) => each.textContent);
  avatar.view("face");
  avatar.view("whole");
  const wrong = (() => { try { avatar.view("hand"); } catch (error) { return error.message; } })();
  finish({ before, after, again, text, wrong });
} catch (error) { finish({ error: String(error.stack ?? error) }); }
</script></body></html>""".replace("FINISH", FINISH)


@pytest.mark.slow
def test_a_page_shows_a_whole_body_with_hanging_arms(avatar: Avatar, tmp_path: Path) -> None:
    folder = tmp_path / "me"
    export_web(avatar, folder, body="full")
    (tmp_path / "index.html").write_text(BODY_PAGE)
    picture = tmp_path / "web.png"
    found = show({"me": folder, "index.html": tmp_path / "index.html"}, "index.html", picture)
    assert "error" not in found, found["error"]
    assert found["text"] == ["Face", "Play example", "Microphone", "Record 5 s", "Reset"]
    assert "whole or face, not hand" in found["wrong"]
    np.testing.assert_allclose(np.concatenate(found["again"]), np.concatenate(found["before"]), atol=1e-6)
    read = Reader(folder / "avatar.glb")
    rest = read.node_matrices({})
    parents = {
        read.gltf.nodes[child].name: node.name for node in read.gltf.nodes for child in node.children or []
    }

    def local(bone: str, vector: tuple[float, float, float]) -> np.ndarray:
        """The bone's rotation after one about the axes of the space."""
        turned = Rotation.from_rotvec(vector).as_matrix() @ rest[bone][:3, :3]
        return rest[parents[bone]][:3, :3].T @ turned

    hanging = {"LeftArm": local("LeftArm", (0, 0, -1.25)), "RightArm": local("RightArm", (0, 0, 1.25))}
    driven = hanging | {
        "Head": local("Head", (0, 0.4, 0)),
        "LeftArm": local("LeftArm", (0.3, 0, -0.7)),
        "RightForeArm": local("RightForeArm", (0, -0.5, 0)),
    }
    for name, weights, bones in (("before", {}, hanging), ("after", {"jawOpen": 0.6}, driven)):
        # A thousandth of the head's height.
        np.testing.assert_allclose(found[name][0], read.pose(weights, bones)[::7], atol=2.5e-4)
    # Hands are beside the hips, not out to the sides.
    body = np.asarray(found["before"][1])
    assert 0.2 < np.abs(body[:, 0]).max() < 0.45
    # The figure stands in the picture, head to foot.
    shown = np.asarray(Image.open(picture).convert("RGB"))[:, :400].astype(int)
    drawn = np.abs(shown - shown[5, 5]).sum(2) > 30
    rows = np.flatnonzero(drawn.any(1))
    assert rows[0] < 120
    assert rows[-1] > 560
