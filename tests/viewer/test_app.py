"""The app: everything its page offers, from a photograph to files for other programs."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import runpy
import time
import urllib.error
import urllib.request
import wave
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch
from flame_files import make_arrays
from glb_reader import Reader
from gltf_validator import khronos_issues
from helpers import perturbed, random_frames, random_params, small_config
from PIL import Image
from tiny_run import need

from rome_lightning.avatar import Avatar
from rome_lightning.avatar.driver import Driver
from rome_lightning.avatar.recorded import RecordedMotion, read_motion, write_motion
from rome_lightning.cli.main import main
from rome_lightning.export import mesh_picture
from rome_lightning.export.profiles import PLAIN, PROFILES, Profile
from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe
from rome_lightning.media.audio import NO_SOUND, copy_audio
from rome_lightning.media.image import to_uint8
from rome_lightning.media.video import read_video, write_video
from rome_lightning.models import AvatarModel, LinearBasis
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.viewer import app as app_module
from rome_lightning.viewer import studio as studio_module
from rome_lightning.viewer.app import _Page
from rome_lightning.viewer.browser import find_browser
from rome_lightning.viewer.studio import (
    EXPORTS,
    WITH_BODY,
    AppFormat,
    Limits,
    Pose,
    Studio,
    VisitorFiles,
)

ROOT = Path(__file__).parents[2]
FRAMES = 4
RATE = 30


@pytest.fixture(scope="module")
def studio() -> Studio:
    """A studio with a small model of random networks."""
    with pytest.MonkeyPatch.context() as patch:
        model = perturbed(AvatarModel(small_config())).eval()
        patch.setattr(studio_module, "open_model", lambda checkpoint: model)
        return Studio(limits=Limits(max_seconds=0.13, max_fps=RATE, max_photos=2, max_megabytes=1))


@pytest.fixture(scope="module")
def avatar(studio: Studio) -> Avatar:
    return Avatar.create(studio.model, random_frames(studio.model.head, 1), refine_steps=0)


def test_sliders_move_the_picture(studio: Studio, avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Avatar] = []
    made = mesh_picture.rigged_person
    monkeypatch.setattr(mesh_picture, "rigged_person", lambda one: calls.append(one) or made(one))
    still = studio.picture(avatar, Pose({}))
    assert still.shape == (*avatar.image_size, 3)
    for pose in (Pose({"jawOpen": 1.0}), Pose({}, yaw=30), Pose({}, pitch=20), Pose({}, neck=30)):
        for way in ("neural", "fast", "mesh"):
            assert np.abs(studio.picture(avatar, pose, drawn_by=way).astype(int) - still).mean() > 0.5
    assert studio.picture(avatar, Pose({}), "transparent").shape[2] == 4
    # The texture of the mesh is completed for the first picture only.
    assert calls == [avatar]


def test_coefficients_of_flame_have_both_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(make_arrays(), protocol=2))
    head = add_mediapipe(load_flame(path, num_shape=6, num_expression=4))
    model = perturbed(AvatarModel(small_config(), head)).eval()
    monkeypatch.setattr(studio_module, "open_model", lambda checkpoint: model)
    flame = Studio()
    avatar = Avatar.create(model, random_frames(head, 1), refine_steps=0)
    poses = (Pose({"expression_000": weight}) for weight in (-2.0, 0.0, 2.0))
    low, rest, high = (flame.picture(avatar, pose, drawn_by="mesh").astype(int) for pose in poses)
    for one, other in ((low, rest), (rest, high)):
        assert np.abs(one - other).max() > 5


@pytest.mark.parametrize("background", ["white", "transparent"])
def test_recorded_motion_becomes_a_video(
    studio: Studio, avatar: Avatar, background: str, tmp_path: Path
) -> None:
    head = studio.model.head
    # A quarter of a second, twice as many frames per second as are drawn.
    lost = torch.zeros(15, dtype=torch.bool)
    motion = RecordedMotion(random_params(head, 15), torch.arange(15) / (2 * RATE), True, lost)
    shares: list[float] = []
    path, note = studio.animate(
        avatar,
        write_motion(motion, tmp_path / "motion.csv", head),
        tmp_path,
        background,
        progress=lambda share, text: shares.append(share),
    )
    assert path.suffix == (".mp4" if background == "white" else ".webm")
    # No more than the limits.
    assert read_video(path).timestamps == pytest.approx(np.arange(FRAMES) / RATE, abs=1e-3)
    assert note == f"{FRAMES} frames"
    assert shares[-1] == 1.0


def test_the_example_moves_and_comes_back_to_rest(studio: Studio, avatar: Avatar, tmp_path: Path) -> None:
    head = studio.model.head
    file = studio.write_example(tmp_path)
    motion = read_motion(file, head)
    params = motion.params
    assert motion.times_s[-1] == pytest.approx(8, abs=0.05)
    assert not motion.framed
    weights = dict(zip(head.expression_names, params.expression.T, strict=True))
    assert all(values.min() >= 0 and values.max() <= 1 for values in weights.values())
    for name in ("jawOpen", "eyeBlinkLeft", "mouthSmileRight"):
        assert weights[name].max() > 0.3
    for still in (params.expression[[0, -1]], params.neck_pose[[0, -1]]):
        assert still.abs().max() < 1e-3
    yaw = torch.rad2deg(params.neck_pose[:, 1])
    assert (yaw.max(), yaw.min()) == (pytest.approx(28, abs=1), pytest.approx(-28, abs=1))
    assert yaw.diff().abs().max() < 4
    shares: list[float] = []
    studio.animate(avatar, file, tmp_path, progress=lambda share, text: shares.append(share))
    # A recording needs no tracking, which is half of the work with a video.
    assert shares == [1.0]


def test_a_basis_changes_the_hair(studio: Studio, avatar: Avatar, tmp_path: Path) -> None:
    head = studio.model.head
    generator = torch.Generator().manual_seed(1)
    columns = torch.linalg.qr(torch.randn(3 * head.num_vertices, 3, generator=generator)).Q
    components = columns.T.reshape(3, head.num_vertices, 3).contiguous()
    mean, std = torch.zeros(head.num_vertices, 3), torch.ones(3)
    basis = LinearBasis(components, mean, std, 3, head.name, mesh_fingerprint(head))
    basis.save(tmp_path / "basis.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio_module, "open_model", lambda checkpoint: studio.model)
        shaped = Studio(basis=tmp_path / "basis.safetensors")
        basis = dataclasses.replace(basis, fingerprint="of another mesh")
        basis.save(tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match="head"):
            Studio(basis=tmp_path / "other.safetensors")
    assert shaped.edited(avatar, [0, 0, 0]) is avatar
    moved = shaped.edited(avatar, [0, 2, 0]).rest_mesh().vertices - avatar.rest_mesh().vertices
    torch.testing.assert_close(moved[0], 2 * components[1], atol=1e-6, rtol=0)
    # The page of a studio without a basis has no such sliders.
    assert studio.edited(avatar, []) is avatar


def test_time_left_is_that_of_the_stage(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    report = _Page(None, studio)._progress(lambda share, desc: said.append(desc))
    for seconds, share, text in [
        (0, 0.0, "a"),
        (2, 0.1, "a"),
        (10, 0.2, "a"),
        (11, 0.5, "b"),
        (21, 0.6, "b"),
    ]:
        now[0] = seconds
        report(share, text)
    # Stage a: 0.2 in 10 s; stage b: 0.1 in 10 s.
    assert said == ["a", "a", "a, about 40 s left", "b", "b, about 40 s left"]


def test_relative_motion_starts_from_the_photograph(studio: Studio, avatar: Avatar, tmp_path: Path) -> None:
    head = studio.model.head
    motion = RecordedMotion(
        random_params(head, 2, seed=5), torch.arange(2) / RATE, True, torch.zeros(2, dtype=torch.bool)
    )
    file = write_motion(motion, tmp_path / "motion.npz", head)
    photograph = to_uint8(next(avatar.draw(avatar.source.params)).image)[0].astype(int)
    far = {}
    for relative in (False, True):
        path, _ = studio.animate(avatar, file, tmp_path, relative=relative)
        far[relative] = np.abs(read_video(path).frames[0] - photograph).mean()
    assert far[True] < 0.5 * far[False]


@pytest.mark.slow
def test_a_video_drives_it_and_is_heard(studio: Studio, avatar: Avatar, tmp_path: Path) -> None:
    need("face_landmarker")
    face = skimage.data.astronaut()
    driver = write_video(tmp_path / "driver.mp4", [face] * 12, 2.0 * RATE)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as tone:
        tone.setparams((1, 2, 48000, 0, "NONE", ""))
        tone.writeframes((8000 * np.sin(np.arange(48000) / 20)).astype("<i2").tobytes())
    assert copy_audio(driver, tmp_path / "tone.wav", [0.0]) == ""
    path, note = studio.animate(avatar, driver, tmp_path)
    assert note == f"{FRAMES} frames"
    assert read_video(path).timestamps == pytest.approx(np.arange(FRAMES) / RATE, abs=1e-3)
    with av.open(str(path)) as container:
        assert np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1).std() > 0.05


def test_lost_sound_is_mentioned(
    studio: Studio, avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = studio.model.head
    motion = RecordedMotion(
        random_params(head, 2), torch.arange(2) / RATE, True, torch.zeros(2, dtype=torch.bool)
    )
    file = write_motion(motion, tmp_path / "motion.npz", head)
    for lost, said in (
        ("its sound is damaged", "; the video is silent: its sound is damaged"),
        (NO_SOUND, ""),
    ):
        monkeypatch.setattr(Driver, "write", lambda *given, lost=lost: lost)
        assert studio.animate(avatar, file, tmp_path)[1] == "2 frames" + said


@pytest.mark.parametrize(
    "kinds",
    [("ply", "params"), pytest.param(("glb", "vrm", "obj", "web"), marks=pytest.mark.slow)],
    ids=["small", "whole"],
)
def test_every_button_writes_its_file_and_names_lead_nowhere(
    studio: Studio, avatar: Avatar, tmp_path: Path, kinds: tuple[AppFormat, ...]
) -> None:
    for kind in kinds:
        folder = tmp_path / kind
        folder.mkdir()
        files = studio.export(avatar, kind, folder, "../../my: head", "Jane")
        assert files
        assert all(file.parent == folder for file in files)
        assert files[0].stem.startswith("my_head")
    if "web" in kinds:
        with zipfile.ZipFile(tmp_path / "web" / "my_head.zip") as packed:
            assert {"my_head/index.html", "my_head/avatar.js", "my_head/avatar.glb"} <= set(packed.namelist())
    if "glb" in kinds:
        assert khronos_issues(tmp_path / "glb" / "my_head.glb") == []
    with pytest.raises(ValueError, match="a format is one of"):
        studio.export(avatar, "exe", tmp_path)  # type: ignore[arg-type]
    assert set(EXPORTS) >= {"glb", "vrm", "usd"}


def test_a_body_goes_to_the_formats_that_have_one(
    studio: Studio, avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: dict[str, str] = {}
    profiles: dict[str, Profile] = {}

    def export(
        avatar: Avatar, path: Path, kind: str, author: str | None, profile: Profile, body: str
    ) -> Path:
        bodies[kind], profiles[kind] = body, profile
        return path

    def export_folder(avatar: Avatar, folder: Path, body: str) -> list[Path]:
        folder.mkdir()
        bodies["web"] = body
        return []

    monkeypatch.setattr(studio_module, "export_avatar", export)
    monkeypatch.setattr(studio_module, "export_web", export_folder)
    for kind in EXPORTS:
        studio.export(avatar, kind, tmp_path, body="full", program="unity")
    assert {kind for kind, profile in profiles.items() if profile is PROFILES["unity"]} == {"glb"}
    assert all(profile is PLAIN for kind, profile in profiles.items() if kind != "glb")
    assert bodies == {kind: "full" if kind in WITH_BODY else "bust" for kind in EXPORTS}


def test_files_are_removed_after_their_time() -> None:
    files = VisitorFiles(kept_s=600, pause_s=0.01)
    old, new = files.fresh(), files.fresh()
    (old / "avatar.glb").write_bytes(b"old")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    # No second request is needed.
    latest = time.monotonic() + 30
    while old.exists() and time.monotonic() < latest:
        time.sleep(0.01)
    assert not old.exists()
    assert new.exists()
    assert files.fresh() != new


def test_files_in_an_archive_have_names_of_their_own(studio: Studio, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.fromarray(skimage.data.coffee()[:64, :64]).save(tmp_path / name)
    with pytest.raises(ValueError, match="named after the photographs, but a is given more than once"):
        studio.create_each([tmp_path / "a.png", tmp_path / "a.jpg"], tmp_path)
    assert not (tmp_path / "avatars.zip").exists()


def test_limits_are_sentences(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photograph yet"):
        studio.create([])
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="at most 2 photographs"):
        studio.create([tmp_path / "a.png"] * 3)
    (tmp_path / "b.png").write_bytes(bytes(2_000_000))
    with pytest.raises(ValueError, match=r"b\.png has 2 MB, the limit is 1 MB"):
        studio.create([tmp_path / "b.png"])


@pytest.mark.parametrize(
    "colour", ["#80c0ff", "#80c0ffcc", "rgba(128.3, 192, 254.9, 0.5)", "rgb(128,192,255)"]
)
def test_colours_as_the_picker_gives_them(studio: Studio, colour: str) -> None:
    assert _Page(None, studio)._behind("colour", colour, None) == "#80c0ff"


def test_backgrounds_of_the_page(studio: Studio) -> None:
    page = _Page(None, studio)
    assert page._behind("photo", "#80c0ff", "a.png") == "photo"
    assert page._behind("picture", "#80c0ff", "a.png") == "a.png"
    with pytest.raises(ValueError, match="choose a picture"):
        page._behind("picture", "#80c0ff", None)


def test_a_hosted_space_builds_the_page_with_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "build_app", lambda limits: limits)
    limits = runpy.run_path(str(ROOT / "app.py"), run_name="app")["demo"]
    assert (limits.max_seconds, limits.max_megabytes) == (8, 32)


def test_without_gradio_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(["app"]) == 1
    assert "pip install rome-lightning[app]" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_of_photographs_becomes_one_of_avatars(tmp_path: Path) -> None:
    need("face_landmarker", "selfie_multiclass", "modnet")
    whole = Studio()
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "coffee.png")
    pictures, archive, problems = whole.create_each(
        [tmp_path / "astronaut.png", tmp_path / "coffee.png"], tmp_path
    )
    assert [name for _, name in pictures] == ["astronaut.png"]
    assert any("coffee.png: no face" in text for text in problems)
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["astronaut.glb"]


@pytest.mark.slow
def test_from_a_photograph_to_a_downloaded_mesh_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs Gradio: pip install rome-lightning[app]")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    need("face_landmarker", "selfie_multiclass", "modnet")
    try:
        program = find_browser()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    from rome_lightning.viewer.app import build_app, launch

    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "coffee.png")
    app = build_app()
    address = launch(app, port=0)
    assert address.startswith("http://127.0.0.1:")
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1300, "height": 1000})
            page.set_default_timeout(300_000)
            others: list[str] = []
            page.on("request", lambda request: others.append(request.url))
            page.goto(address)
            # Nothing to export yet: a sentence.
            page.locator("#export-glb").click()
            page.get_by_text("create an avatar first").first.wait_for()
            photos = page.locator("input[type=file]").first
            photos.set_input_files(tmp_path / "coffee.png")
            page.locator("#make").click()
            page.get_by_text("no face found").first.wait_for()
            page.reload()
            page.locator("input[type=file]").first.set_input_files(tmp_path / "astronaut.png")
            page.locator("#make").click()
            page.locator("#avatar img").wait_for()
            page.locator("#notes").get_by_text("photograph").first.wait_for()
            # What belongs to one background appears with it.
            assert not page.locator("#picture").is_visible()
            page.locator("#background").get_by_text("picture").click()
            page.locator("#picture").wait_for()
            page.locator("#background").get_by_text("white").click()
            page.locator("#picture").wait_for(state="hidden")
            page.locator("#look input[type=range]").nth(1).fill("20")
            page.locator("#reset").click()
            page.wait_for_function("document.querySelectorAll('#look input[type=range]')[1].value === '0'")
            page.locator("#export-glb").click()
            link = page.locator("#files a[href*='.glb']").first
            link.wait_for()
            with page.expect_download() as download:
                link.click()
            download.value.save_as(tmp_path / "avatar.glb")
            page.locator("#model canvas").wait_for()
            bust = link.get_attribute("href")
            page.locator("#body").get_by_text("whole body").click()
            page.locator("#export-glb").click()
            page.wait_for_function(
                f"document.querySelector('#files a[href*=\"glb\"]')?.getAttribute('href') !== {bust!r}"
            )
            with page.expect_download() as download:
                page.locator("#files a[href*='.glb']").first.click()
            download.value.save_as(tmp_path / "body.glb")
            page.screenshot(path=tmp_path / "app.png", full_page=True)
            browser.close()
    finally:
        app.close()
    assert khronos_issues(tmp_path / "avatar.glb") == []
    assert len(Reader(tmp_path / "body.glb").gltf.meshes) == 2
    length = int.from_bytes((tmp_path / "avatar.glb").read_bytes()[12:16], "little")
    document = json.loads((tmp_path / "avatar.glb").read_bytes()[20 : 20 + length])
    assert "astronaut.png" in document["asset"]["copyright"]
    foreign = [url for url in others if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []


def test_files_of_this_machine_are_not_served(tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason="needs Gradio: pip install rome-lightning[app]")
    from rome_lightning.viewer.app import launch

    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with gradio.Blocks(analytics_enabled=False) as app:
        gradio.Markdown("empty")
    address = launch(app.queue(), port=0)
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}gradio_api/file={secret}", timeout=30)
        assert refused.value.code in (403, 404)
    finally:
        app.close()
