"""Errors of ``rome avatar`` before any computation, and the effect of its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rome_lightning.avatar import Avatar, making
from rome_lightning.cli import avatar as cli_avatar
from rome_lightning.cli.avatar_export import PROFILES
from rome_lightning.cli.main import main
from rome_lightning.export import person, profiles, web_page
from rome_lightning.export.profiles import Profile
from rome_lightning.export.visemes import VISEMES
from rome_lightning.models import shipped
from rome_lightning.tracking.foreign import FlameTrack


@pytest.fixture
def avatar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """For commands with an exporter that only records its arguments."""
    monkeypatch.setattr(Avatar, "load", lambda path: None)
    return str(tmp_path / "me" / "avatar.safetensors")


@pytest.mark.parametrize("wrong", [["--refine-steps", "-4"], ["--image-size", "big"]])
def test_numbers_that_are_none_are_usage_errors(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["avatar", "create", "a.png", "-o", "x", "--checkpoint", "c.ckpt", *wrong]) == 2
    assert f"expected a whole number, 0 or more, got '{wrong[1]}'" in capsys.readouterr().err


def test_the_name_of_an_export_has_to_fit_its_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["avatar", "export", str(tmp_path), "--format", "glb", "-o", "a.obj"]) == 1
    assert capsys.readouterr().err == ("rome: error: --format glb writes a .glb file, got --output a.obj\n")


def test_every_photograph_has_a_file_of_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    create = ["avatar", "create", "a.png", "b.png", "-o", "x", "--params", "a.npz"]
    for each in ([], ["--each"]):
        assert main([*create, *each]) == 1
        assert "--params wants a file for each photograph, got 1 for 2" in capsys.readouterr().err


def test_parameters_have_one_source(capsys: pytest.CaptureFixture[str]) -> None:
    create = ["avatar", "create", "a.png", "-o", "x", "--params", "a.npz", "--deca", "deca_model.tar"]
    assert main(create) == 1
    assert "--params and --deca are two sources of the same parameters" in capsys.readouterr().err
    assert main(["avatar", "create", "a.png", "-o", "x", "--deca", "deca_model.tar"]) == 1
    assert "no file at deca_model.tar; deca_model.tar is linked from" in capsys.readouterr().err


def test_each_photograph_has_parameters_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("a", 0.25), ("b", 0.5)):
        arrays = {"shape": np.zeros((1, 100)), "exp": np.full((1, 50), value), "pose": np.zeros((1, 6))}
        np.savez(tmp_path / f"{name}.npz", cam=np.array([[8.0, 0.0, 0.0]]), **arrays)
    made: dict[str, float] = {}

    def make(*given: Any) -> None:
        photos, output, tracks = given[3:]
        assert [photo.stem for photo in photos] == [output.name]
        assert [type(track) for track in tracks] == [FlameTrack]
        made[output.name] = float(tracks[0].expression[0, 0])

    monkeypatch.setattr(shipped, "open_model", lambda checkpoint: None)
    monkeypatch.setattr(making, "photo_tracker", lambda *given: None)
    monkeypatch.setattr(cli_avatar, "_make", make)
    parameters = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    assert main(["avatar", "create", "a.png", "b.png", "-o", "x", "--each", "--params", *parameters]) == 0
    assert made == {"a": 0.25, "b": 0.5}


@pytest.mark.parametrize("program", [None, *PROFILES])
def test_visemes_join_those_of_a_program(
    program: str | None, avatar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Profile] = []

    def export(*given: Any, profile: Profile, **options: Any) -> Path:
        written.append(profile)
        return tmp_path

    monkeypatch.setattr(person, "export_avatar", export)
    wanted = [] if program is None else ["--profile", program]
    for visemes in ([], ["--visemes"]):
        assert main(["avatar", "export", avatar, *wanted, *visemes]) == 0
    plain, speaking = written
    assert plain == (profiles.PLAIN if program is None else profiles.PROFILES[program])
    assert speaking.mixes == VISEMES | dict(plain.mixes)
    assert (speaking.rig, speaking.texture, speaking.unlit) == (plain.rig, plain.texture, plain.unlit)


def test_parts_of_a_page_are_asked_for(avatar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[set[str]] = []
    bodies: list[str] = []

    def export(*given: Any, body: str, **wanted: bool) -> list[Path]:
        assert set(wanted) == {"webcam", "neural", "webgpu"}
        bodies.append(body)
        parts.append({name for name, value in wanted.items() if value})
        return []

    monkeypatch.setattr(web_page, "export_web", export)
    for options in ([], ["--webcam"], ["--neural"], ["--neural", "--webcam"], ["--neural", "--webgpu"]):
        assert main(["avatar", "export", avatar, "--format", "web", *options]) == 0
    assert parts == [set(), {"webcam"}, {"neural"}, {"neural", "webcam"}, {"neural", "webgpu"}]
    assert main(["avatar", "export", avatar, "--format", "web", "--body", "full"]) == 0
    assert bodies == ["bust"] * 5 + ["full"]


def test_levels_of_detail_have_the_body_that_is_asked_for(
    avatar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Any, ...]] = []

    def export(*given: Any) -> list[Path]:
        found.append(given)
        return []

    monkeypatch.setattr(person, "export_lods", export)
    for options in ([], ["--body", "full"]):
        assert main(["avatar", "export", avatar, "--lod", "0.5,0.25", *options]) == 0
    assert [(given[2], given[-1]) for given in found] == [((0.5, 0.25), "bust"), ((0.5, 0.25), "full")]


@pytest.mark.parametrize(
    "option",
    [
        "--webcam",
        "--neural",
        "--webgpu",
        "--profile=three",
        "--visemes",
        "--compress=draco",
        "--texture=webp",
        "--lod=0.5",
    ],
)
def test_options_of_other_formats_are_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["avatar", "export", str(tmp_path), "--format", "ply", option]) == 1
    assert f"{option.split('=')[0]} is for --format" in capsys.readouterr().err
