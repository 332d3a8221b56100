from __future__ import annotations

import itertools
import json
import re
import sys
import tempfile
import time
import urllib.request

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from tiny_run import IMAGE_SIZE, NUM_FRAMES, need

from rome_lightning.avatar import Avatar
from rome_lightning.cli import main as cli
from rome_lightning.head import HeadModel
from rome_lightning.media.video import read_video, write_video
from rome_lightning.models import LinearBasis
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.viewer import ViewerServer
from rome_lightning.viewer.browser import find_browser


def test_a_photograph_becomes_an_avatar(avatar):
    assert {path.name for path in avatar.iterdir()} >= {"avatar.safetensors", "preview.png"}
    made = Avatar.load(avatar / "avatar.safetensors")
    assert made.image_size == (IMAGE_SIZE, IMAGE_SIZE)
    # The person fills part of the crop, not all of it.
    assert 0.2 < float(made.source.foreground_mask.mean()) < 0.9
    rendered = next(made.draw(made.source.params))
    # The fitted mesh covers the person.
    on_mesh = made.source.foreground_mask[rendered.mesh_mask].mean()
    assert on_mesh > 0.9
    assert np.asarray(Image.open(avatar / "preview.png")).std() > 20


def test_a_video_drives_it(avatar, folder, tmp_path, rome):
    plain, compared = tmp_path / "plain.mp4", tmp_path / "compared.mp4"
    assert rome("avatar", "animate", avatar, "--driver", folder / "face.mp4", "-o", plain) == (0, "")
    assert rome(
        *("avatar", "animate", avatar, "--driver", folder / "face.mp4", "-o", compared),
        *("--compare", "--max-frames", 3),
    ) == (0, "")
    assert read_video(plain).frames.shape == (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert read_video(compared).frames.shape == (3, IMAGE_SIZE, 3 * IMAGE_SIZE, 3)


class FaceCamera:
    """Stands for OpenCV's camera 0, before which a face moves; there is no other one."""

    def __init__(self, camera: int | str) -> None:
        wide = np.pad(skimage.data.astronaut(), ((0, 0), (32, 32), (0, 0)), mode="edge")
        self.frames = (wide[:, 8 * (i % 8) : 8 * (i % 8) + 512, ::-1] for i in itertools.count())
        self.opens = camera == 0

    def isOpened(self):
        return self.opens

    def set(self, name, value):
        return False

    def get(self, name):
        return 0.0

    def read(self):
        time.sleep(0.04)
        return True, next(self.frames)

    def release(self):
        self.opens = False


def test_a_camera_drives_it(avatar, tmp_path, rome, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FaceCamera)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    drive, output = ("avatar", "animate", avatar, "-o", tmp_path / "me.mp4", "--driver"), tmp_path / "me.mp4"
    assert rome(*drive, "camera:0", "--max-frames", 3) == (0, "")
    assert read_video(output).frames.shape == (3, IMAGE_SIZE, IMAGE_SIZE, 3)
    record = json.loads(output.with_suffix(".json").read_text())
    assert (record["driver"], record["lost_frames"]) == ("camera:0", [])
    assert rome("avatar", "track", "camera:0", "--seconds", 0.1, "-o", tmp_path / "me.csv") == (0, "")
    assert 1 <= len((tmp_path / "me.csv").read_text().splitlines()) - 1 <= 3
    assert rome(*drive, "camera:5") == (
        *(cli.EXIT_FAILURE, "cannot read camera 5; is it connected, and does this user have access?"),
    )
    assert rome(*drive, tmp_path / "me.csv", "--seconds", 2) == (
        *(cli.EXIT_FAILURE, f"--seconds is for cameras; limit {tmp_path / 'me.csv'} with --max-frames"),
    )
    # No recording is left behind, not even of nobody.
    coffee = skimage.data.coffee()[:384, :384, ::-1]
    monkeypatch.setattr(FaceCamera, "read", lambda self: (True, coffee))
    code, error = rome(*drive, "camera:0", "--max-frames", 2)
    assert (code, error.startswith("no face found in 2 frames")) == (cli.EXIT_FAILURE, True)
    assert {path.name for path in tmp_path.iterdir()} == {"me.mp4", "me.json", "me.csv"}


@pytest.mark.parametrize(
    ("photo", "complaint"),
    [
        ("coffee.png", "no face found in the photo"),
        ("damaged_face.png", "cannot read .*damaged_face.png as an image"),
        ("face.mp4", "cannot read .*face.mp4 as an image"),
        ("nothing.png", "no image at .*nothing.png"),
    ],
)
def test_an_unusable_photograph_leaves_nothing(folder, checkpoint, tmp_path, rome, photo, complaint):
    need("face_landmarker", "selfie_multiclass", "modnet")
    output = tmp_path / "avatar"
    code, error = rome("avatar", "create", folder / photo, "-o", output, "--checkpoint", checkpoint)
    assert code == cli.EXIT_FAILURE
    assert re.search(complaint, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("driver", "complaint"),
    [
        ("coffee.mp4", "no face found in 5 frames"),
        ("damaged_face.mp4", "damaged_face.mp4"),
        ("nothing.mp4", "no video at .*nothing.mp4"),
    ],
)
def test_an_unusable_driver_leaves_nothing(avatar, folder, tmp_path, rome, driver, complaint):
    output = tmp_path / "out.mp4"
    code, error = rome("avatar", "animate", avatar, "--driver", folder / driver, "-o", output)
    assert code == cli.EXIT_FAILURE
    assert re.search(complaint, error)
    assert list(tmp_path.iterdir()) == []


def test_photographs_that_cannot_be_used_together_are_named(folder, checkpoint, tmp_path, rome, capfd):
    need("face_landmarker", "selfie_multiclass", "modnet")
    arguments = ("avatar", "create", folder / "face.png", folder / "coffee.png", "-o", tmp_path / "avatar")
    code, error = rome(*arguments, "--checkpoint", checkpoint)
    assert code == cli.EXIT_FAILURE
    assert re.search(r"coffee\.png: no face found in the photo", error)
    assert list(tmp_path.iterdir()) == []


def test_several_photographs_make_one_avatar(folder, checkpoint, tmp_path, rome):
    need("face_landmarker", "selfie_multiclass", "modnet", "yunet", "sface")
    Image.fromarray(skimage.data.astronaut()[:400, 20:500]).save(tmp_path / "cropped.png")
    output = tmp_path / "avatar"
    photos = (folder / "face.png", tmp_path / "cropped.png")
    arguments = ("-o", output, "--checkpoint", checkpoint, "--refine-steps", 10)
    assert rome("avatar", "create", *photos, *arguments) == (0, "")
    made = Avatar.load(output / "avatar.safetensors")
    assert len(made.photos) == 2
    assert bool((made.photos.params.shape[0] == made.photos.params.shape[1]).all())


def test_lost_frames_are_recorded_and_treated_as_requested(avatar, folder, tmp_path, rome):
    face = skimage.data.astronaut()
    empty = np.full_like(face, 128)
    frames = [face, face, empty, empty, face]
    times = np.array([0.0, 0.04, 0.3, 0.34, 0.5])
    write_video(tmp_path / "driver.mp4", frames, 25.0, timestamps=times)
    for how, shown in (("hold", 5), ("interpolate", 5), ("skip", 3)):
        output = tmp_path / f"{how}.mp4"
        arguments = ("avatar", "animate", avatar, "--driver", tmp_path / "driver.mp4", "-o", output)
        assert rome(*arguments, "--lost", how, "--compare") == (0, "")
        written = read_video(output)
        video = written.frames
        assert len(video) == shown
        # Each image is shown at its driver's time.
        assert written.timestamps == pytest.approx(times if shown == 5 else times[[0, 1, 4]], abs=1e-3)
        record = json.loads(output.with_suffix(".json").read_text())
        assert (record["lost_frames"], record["lost"], record["frames"]) == ([[2, 3]], how, shown)
        assert record["timestamps_s"] == pytest.approx(written.timestamps, abs=1e-3)
        # The red border of a lost frame.
        reds = [int(frame[0, :, 0].mean()) - int(frame[0, :, 1].mean()) > 60 for frame in video]
        assert reds == ([False, False, True, True, False] if shown == 5 else [False] * 3)


def test_frames_can_be_pictures_and_motion_relative(avatar, folder, tmp_path, rome):
    output = tmp_path / "frames"
    arguments = ("avatar", "animate", avatar, "--driver", folder / "face.mp4", "-o", output, "--relative")
    assert rome(*arguments, "--max-frames", 2) == (0, "")
    assert sorted(path.name for path in output.iterdir()) == ["00000.png", "00001.png"]


def test_the_head_moves_in_its_whole_photograph(avatar, folder, tmp_path, rome):
    output = tmp_path / "whole.mp4"
    arguments = ("avatar", "animate", avatar, "--driver", folder / "face.mp4", "-o", output)
    assert rome(*arguments, "--max-frames", 2, "--paste-back", folder / "face.png") == (0, "")
    assert json.loads(output.with_suffix(".json").read_text())["relative"]
    frames, photo = read_video(output).frames.astype(int), skimage.data.astronaut().astype(int)
    assert frames.shape == (2, *photo.shape)
    # The left border of the photograph lies beside the avatar's square.
    difference = np.abs(frames - photo).mean(axis=(0, 1, 3))
    assert difference[:48].max() < 4
    assert difference.max() > 10
    code, error = rome(*arguments, "--paste-back", folder / "coffee.png")
    assert (code, "no face in this one" in error) == (cli.EXIT_FAILURE, True)
    code, error = rome(*arguments, "--paste-back", folder / "face.png", "--compare")
    assert (code, "omit --background" in error) == (cli.EXIT_FAILURE, True)


def longer_hair(head: HeadModel) -> LinearBasis:
    """A basis whose only component raises the scalp."""
    component = torch.zeros(1, head.num_vertices, 3)
    component[0, head.region("scalp"), 1] = 1
    return LinearBasis(
        component / component.norm(),
        torch.zeros(head.num_vertices, 3),
        torch.tensor([0.2]),
        1,
        head.name,
        mesh_fingerprint(head),
    )


def test_an_edit_moves_the_hair_and_nothing_else(avatar, tmp_path, rome):
    made = Avatar.load(avatar / "avatar.safetensors")
    basis = longer_hair(made.model.head)
    basis.save(tmp_path / "basis.safetensors")
    arguments = (
        "avatar",
        "edit",
        avatar,
        "--basis",
        tmp_path / "basis.safetensors",
        "-o",
        tmp_path / "edited",
    )
    assert rome(*arguments, "--component", 1, "--amount", 2) == (0, "")
    edited = Avatar.load(tmp_path / "edited" / "avatar.safetensors")
    moved = (edited.rest_mesh().vertices - made.rest_mesh().vertices)[0]
    expected = 2 * 0.2 * basis.components[0]
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)
    for extra, complaint in (
        (("--component", 2, "--amount", 1), "has components 0 to 0"),
        (("--component", 0, "--amount", 1), "counted from 1"),
        (("--component", 1, "--amount", 1, "--amount", 2), "every --component needs its --amount"),
    ):
        code, error = rome(*arguments, *extra)
        assert code == cli.EXIT_FAILURE
        assert complaint in error


# It asks for what the page asks for and notes it where the picture should be.
STAND_IN = """
import json, sys, urllib.request

url = sys.argv[-1]
address, state = url.split("?picture#")
read = lambda path: urllib.request.urlopen(address + path).read()
noted = {
    "state": state,
    "page": len(read("")),
    "about": json.loads(read("about.json")),
    "mesh": read("avatar.glb").decode("latin-1")[:4],
}
path = next(word for word in sys.argv if word.startswith("--screenshot=")).partition("=")[2]
json.dump(noted, open(path, "w"))
print('<body data-state="ready">')
"""


def test_view_serves_the_page_and_takes_a_picture(avatar, tmp_path, rome, monkeypatch, capfd):
    browser = tmp_path / "browser"
    browser.write_text(f"#!{sys.executable}\n{STAND_IN}")
    browser.chmod(0o755)
    monkeypatch.setenv("ROME_BROWSER", str(browser))
    output = tmp_path / "page.png"
    view = ("avatar", "view", avatar)
    assert rome(*view, "--screenshot", output, "--state", "jawOpen=1") == (0, "")
    noted = json.loads(output.read_text())
    assert (noted["state"], noted["mesh"], noted["about"]["name"]) == ("jawOpen=1", "glTF", "avatar")
    assert len(noted["about"]["expressions"]) == 52
    assert noted["page"] > 1000
    code, error = rome(*view, "--state", "jawOpened=1")
    assert (code, "jawOpened" in error) == (cli.EXIT_FAILURE, True)

    # Without a picture it prints the address and serves until it is interrupted.
    def wait(server):
        assert server.url in capfd.readouterr().out
        assert urllib.request.urlopen(f"{server.url}about.json").status == 200

    monkeypatch.setattr(ViewerServer, "wait", wait)
    assert rome(*view, "--port", 0) == (0, "")


@pytest.mark.slow
def test_view_takes_a_picture(avatar, tmp_path, rome):
    try:
        find_browser()
    except FileNotFoundError as error:
        pytest.skip(f"needs a headless Chromium: {error}")
    output = tmp_path / "page.png"
    assert rome("avatar", "view", avatar, "--screenshot", output, "--state", "jawOpen=1") == (0, "")
    assert np.asarray(Image.open(output)).std() > 20


def test_files_that_are_not_avatars_or_checkpoints(avatar, folder, checkpoint, tmp_path, rome):
    code, error = rome("avatar", "export", folder / "face.mp4")
    assert code == cli.EXIT_FAILURE
    assert "is damaged or not an avatar file" in error
    code, error = rome("avatar", "export", tmp_path / "nobody")
    assert code == cli.EXIT_FAILURE
    assert "create one with `rome avatar create" in error
    arguments = ("avatar", "create", folder / "face.png", "-o", tmp_path / "a", "--checkpoint")
    code, error = rome(*arguments, folder / "face.mp4")
    assert code == cli.EXIT_FAILURE
    assert "is not a readable checkpoint" in error
    code, error = rome(*arguments, tmp_path / "no.ckpt")
    assert code == cli.EXIT_FAILURE
    assert "neither a file nor one of the shipped models" in error
    assert list(tmp_path.iterdir()) == []


def test_motion_is_recorded_once_and_drawn_in_many_ways(avatar, folder, tmp_path, rome):
    drive = ("avatar", "animate", avatar, "--driver")
    for name in ("motion.csv", "motion.npz"):
        assert rome("avatar", "track", folder / "face.mp4", "-o", tmp_path / name) == (0, "")
    # Transparent, of another size, by the mesh.
    clear = tmp_path / "clear.webm"
    arguments = ("-o", clear, "--background", "transparent", "--size", 96, "--draw", "mesh")
    assert rome(*drive, tmp_path / "motion.npz", *arguments) == (0, "")
    video = read_video(clear)
    assert video.frames.shape == (NUM_FRAMES, 96, 96, 3)
    # Transparent pixels are composited on white.
    assert (video.frames[:, :8, :8] > 240).all()
    coloured = tmp_path / "coloured"
    arguments = ("-o", coloured, "--background", "#204080", "--max-frames", 2)
    assert rome(*drive, tmp_path / "motion.csv", *arguments) == (0, "")
    pixels = np.asarray(Image.open(coloured / "00001.png"))
    assert np.abs(pixels[1, 1].astype(int) - (0x20, 0x40, 0x80)).max() < 12
    photo = tmp_path / "photo.png"
    assert rome(*drive, folder / "face.png", "-o", photo, "--background", "photo") == (0, "")
    assert Image.open(photo).size == (IMAGE_SIZE, IMAGE_SIZE)
    code, error = rome(*drive, folder / "face.mp4", "-o", tmp_path / "a.mp4", "--background", "transparent")
    assert (code, "no transparency" in error) == (cli.EXIT_FAILURE, True)
    code, error = rome(*drive, tmp_path / "motion.csv", "-o", tmp_path / "a.mp4", "--compare")
    assert (code, "has none" in error) == (cli.EXIT_FAILURE, True)


def test_each_photograph_has_an_avatar_of_its_own(folder, checkpoint, tmp_path, rome):
    need("face_landmarker", "selfie_multiclass", "modnet")
    photos = (folder / "face.png", folder / "coffee.png")
    arguments = ("-o", tmp_path / "people", "--checkpoint", checkpoint, "--refine-steps", 2, "--each")
    code, error = rome("avatar", "create", *photos, *arguments)
    assert code == cli.EXIT_FAILURE
    assert re.search(r"coffee\.png: .*no face found", error)
    assert [path.name for path in (tmp_path / "people").iterdir()] == ["face"]
    assert Avatar.load(tmp_path / "people" / "face" / "avatar.safetensors").photo_names == ("face.png",)


def test_several_avatars_have_a_video_each_or_one_together(avatar, folder, tmp_path, rome):
    longer = tmp_path / "longer"
    longer_hair(Avatar.load(avatar).model.head).save(tmp_path / "basis.safetensors")
    edit = ("avatar", "edit", avatar, "--basis", tmp_path / "basis.safetensors", "--component", 1)
    assert rome(*edit, "--amount", 2, "-o", longer) == (0, "")
    assert rome("avatar", "track", folder / "face.mp4", "-o", tmp_path / "motion.csv") == (0, "")
    drive = ("avatar", "animate", avatar, longer, "--driver")
    assert rome(*drive, folder / "face.mp4", "-o", tmp_path / "each") == (0, "")
    assert rome("avatar", "animate", longer, "--driver", folder / "face.mp4", "-o", tmp_path / "own") == (
        0,
        "",
    )
    names = [f"{index:05d}.png" for index in range(NUM_FRAMES)]
    for name in names:
        assert (tmp_path / "each" / "longer" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    record = json.loads((tmp_path / "each" / "longer.json").read_text())
    assert (record["avatars"], record["frames"]) == (["longer"], NUM_FRAMES)
    # Side by side, after the driver: the same images.
    assert rome(*drive, folder / "face.mp4", "-o", tmp_path / "all", "--grid", "--compare") == (0, "")
    for name in names:
        whole = np.asarray(Image.open(tmp_path / "all" / name))
        assert whole.shape == (IMAGE_SIZE, 3 * IMAGE_SIZE, 3)
        own = [np.asarray(Image.open(tmp_path / "each" / each / name)) for each in ("avatar", "longer")]
        assert np.array_equal(whole[:, IMAGE_SIZE:], np.concatenate(own, axis=1))
        assert whole[:, :IMAGE_SIZE].std() > 20
        assert not np.array_equal(own[0], own[1])
    # A recording without framing shows each avatar as in its photograph.
    assert rome(*drive, tmp_path / "motion.csv", "-o", tmp_path / "two.mp4", "--max-frames", 2) == (0, "")
    assert {path.name for path in tmp_path.glob("two*")} == {
        f"two_{name}{suffix}" for name in ("avatar", "longer") for suffix in (".mp4", ".json")
    }
    code, error = rome(
        *drive, folder / "face.mp4", "-o", tmp_path / "a.mp4", "--paste-back", folder / "face.png"
    )
    assert (code, "animate one at a time" in error) == (cli.EXIT_FAILURE, True)
