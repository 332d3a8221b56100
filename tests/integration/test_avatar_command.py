from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from tiny_run import IMAGE_SIZE, need

from rome_lightning.avatar import Avatar
from rome_lightning.cli import main as cli
from rome_lightning.tracking import read_video, write_video

NUM_FRAMES = 5


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of a face, one without, a video of each, and damaged copies."""
    folder = tmp_path_factory.mktemp("media")
    face, coffee = skimage.data.astronaut(), skimage.data.coffee()[:384, :384]
    Image.fromarray(face).save(folder / "face.png")
    Image.fromarray(coffee).save(folder / "coffee.png")
    wide = np.pad(face, ((0, 0), (32, 32), (0, 0)), mode="edge")
    write_video(folder / "face.mp4", [wide[:, 8 * i : 8 * i + 512] for i in range(NUM_FRAMES)], 25.0)
    write_video(folder / "coffee.mp4", [coffee] * NUM_FRAMES, 25.0)
    for name in ("face.png", "face.mp4"):
        whole = (folder / name).read_bytes()
        (folder / f"damaged_{name}").write_bytes(whole[: len(whole) // 8])
    return folder


@pytest.fixture(scope="session")
def checkpoint(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def avatar(folder: Path, checkpoint: Path) -> Path:
    need("face_landmarker", "selfie_multiclass", "modnet")
    output = folder / "avatar"
    arguments = ["avatar", "create", folder / "face.png", "-o", output, "--checkpoint", checkpoint]
    assert cli.main([str(argument) for argument in arguments]) == cli.EXIT_OK
    return output


def test_a_photograph_becomes_an_avatar(avatar):
    assert {path.name for path in avatar.iterdir()} >= {"avatar.safetensors", "preview.png"}
    made = Avatar.load(avatar / "avatar.safetensors")
    assert made.image_size == (IMAGE_SIZE, IMAGE_SIZE)
    # The crop shows a person: neither empty nor all.
    assert 0.2 < float(made.source.foreground_mask.mean()) < 0.9
    rendered = next(made.animate(made.source.params))
    # The fitted mesh lies where the person is.
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


def test_other_tools_can_open_its_mesh(avatar, tmp_path, rome):
    glb, obj = tmp_path / "a.glb", tmp_path / "a.obj"
    assert rome("avatar", "export", avatar, "--format", "glb", "-o", glb) == (0, "")
    assert rome("avatar", "export", avatar, "--format", "obj", "-o", obj) == (0, "")
    content = glb.read_bytes()
    magic, version, length, json_length = struct.unpack("<4sIII", content[:16])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    document = json.loads(content[20 : 20 + json_length])
    assert len(document["skins"][0]["joints"]) >= 5
    assert len(document["meshes"][0]["primitives"][0]["targets"]) > 40
    made = Avatar.load(avatar / "avatar.safetensors")
    lines = obj.read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) == made.rest_mesh().vertices.shape[1]
    assert obj.with_suffix(".mtl").is_file()


@pytest.mark.parametrize(
    ("photo", "complaint"),
    [
        ("coffee.png", "no face found in the photo"),
        ("damaged_face.png", "cannot read .*damaged_face.png as an image"),
        ("face.mp4", "cannot read .*face.mp4 as an image"),
        ("nothing.png", "no image at .*nothing.png"),
    ],
)
def test_a_photograph_of_no_use_leaves_nothing(folder, checkpoint, tmp_path, rome, photo, complaint):
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
def test_a_driver_of_no_use_leaves_nothing(avatar, folder, tmp_path, rome, driver, complaint):
    output = tmp_path / "out.mp4"
    code, error = rome("avatar", "animate", avatar, "--driver", folder / driver, "-o", output)
    assert code == cli.EXIT_FAILURE
    assert re.search(complaint, error)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_avatars_or_checkpoints(avatar, folder, checkpoint, tmp_path, rome):
    code, error = rome("avatar", "export", folder / "face.mp4")
    assert code == cli.EXIT_FAILURE
    assert "is damaged or not an avatar file" in error
    code, error = rome("avatar", "export", tmp_path / "nobody")
    assert code == cli.EXIT_FAILURE
    assert "make one with `rome avatar create" in error
    arguments = ("avatar", "create", folder / "face.png", "-o", tmp_path / "a", "--checkpoint")
    code, error = rome(*arguments, folder / "face.mp4")
    assert code == cli.EXIT_FAILURE
    assert "is not a readable checkpoint" in error
    code, error = rome(*arguments, tmp_path / "no.ckpt")
    assert code == cli.EXIT_FAILURE
    assert "no checkpoint at" in error
    assert list(tmp_path.iterdir()) == []
