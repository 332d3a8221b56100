"""``rome avatar export`` as a whole; the formats have tests of their own."""

from __future__ import annotations

import json
import struct

import pytest
from PIL import Image
from tiny_run import IMAGE_SIZE

from rome_lightning.avatar import Avatar
from rome_lightning.cli import main as cli


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


def test_every_format_and_poses_of_a_driver(avatar, folder, tmp_path, rome):
    for file_format, suffix in (("ply", ".ply"), ("params", ".npz")):
        output = tmp_path / f"a{suffix}"
        assert rome("avatar", "export", avatar, "--format", file_format, "-o", output) == (0, "")
        assert output.stat().st_size > 1000
    driven = ("avatar", "export", avatar, "--driver", folder / "face.mp4", "-o", tmp_path / "pose.obj")
    assert rome(*driven, "--format", "obj", "--frame", 0, "--frame", 3) == (0, "")
    assert {path.name for path in tmp_path.glob("pose*.obj")} == {"pose_00000.obj", "pose_00003.obj"}
    code, error = rome(*driven, "--format", "obj", "--frame", 9)
    assert (code, "--frame 9 does not exist" in error) == (cli.EXIT_FAILURE, True)
    code, error = rome(*driven[:-1], tmp_path / "a.glb", "--format", "glb")
    assert (code, "contains every pose" in error) == (cli.EXIT_FAILURE, True)


def test_small_files_and_levels_of_detail(avatar, tmp_path, rome):
    pytest.importorskip("fast_simplification")
    pytest.importorskip("DracoPy")
    plain, small = tmp_path / "plain.glb", tmp_path / "small.glb"
    assert rome("avatar", "export", avatar, "-o", plain, "--profile", "unity") == (0, "")
    options = ("--profile", "unity", "--compress", "draco", "--texture", "webp", "--lod", "0.5,0.3")
    assert rome("avatar", "export", avatar, "-o", small, *options) == (0, "")
    files = [plain, small, tmp_path / "small_lod1.glb", tmp_path / "small_lod2.glb"]
    sizes = [file.stat().st_size for file in files]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.6 * sizes[0]
    code, error = rome("avatar", "export", avatar, "--format", "obj", "--lod", "0.5")
    assert (code, "--lod is for --format glb" in error) == (cli.EXIT_FAILURE, True)


def test_a_flip_book_of_a_driver(avatar, folder, tmp_path, rome):
    arguments = ("avatar", "export", avatar, "--format", "flipbook", "-o", tmp_path / "book.png")
    assert rome(*arguments, "--driver", folder / "face.mp4", "--max-frames", 3) == (0, "")
    assert Image.open(tmp_path / "book.png").size == (2 * IMAGE_SIZE, 2 * IMAGE_SIZE)
    about = json.loads((tmp_path / "book.json").read_text())
    assert (about["frames"], about["fps"]) == (3, 25.0)
    code, error = rome(*arguments)
    assert (code, "shows all frames of --driver VIDEO" in error) == (cli.EXIT_FAILURE, True)
