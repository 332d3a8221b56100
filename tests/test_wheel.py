"""The wheel is complete and works outside the clone."""

import zipfile

import pytest
from installed_wheel import ROOT, build_wheel, install_wheel
from installed_wheel import run as _run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return install_wheel(wheel, tmp_path_factory.mktemp("environment"))


def test_the_wheel_holds_all_code_and_data_of_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as bundle:
        names = set(bundle.namelist())
    suffixes = {".py", ".safetensors", ".json", ".html", ".js", ".md", ".csv"}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("rome_lightning", "datamodules")
        for path in (ROOT / package).rglob("*")
        if path.suffix in suffixes or path.name == "py.typed"
    }
    expected |= {
        f"rome_lightning/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "experiments").rglob("*")
        if path.is_file()
    }
    assert expected <= names, f"missing: {sorted(expected - names)}"
    # The page of `rome avatar view`; its script is built, not a Python file.
    assert "rome_lightning/viewer/page/viewer.js" in names
    web = ("index.html", "embed.html", "avatar.js")
    assert names >= {f"rome_lightning/export/web/{file}" for file in web}
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {
        "rome_lightning",
        "datamodules",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "usage: rome COMMAND"),
        (["doctor", "--help"], "usage: rome doctor"),
        (["assets", "list"], "face_landmarker"),
        (["experiments", "list"], "full/base"),
        (["experiments", "show", "full/base"], "seed_everything"),
    ],
)
def test_the_installed_command_runs(installed, tmp_path, arguments, shown):
    assert shown in _run(installed / "rome", *arguments, cwd=tmp_path)


def test_the_installed_package_is_the_one_that_runs(installed, tmp_path):
    code = "import rome_lightning; print(rome_lightning.__file__)"
    assert str(installed.parent) in _run(installed / "python", "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_a_configuration_of_the_wheel_is_found_by_name(installed, tmp_path):
    """Without the clone, the file is read from the package."""
    printed = _run(installed / "rome", "fit", "--config", "full/base", "--print_config", cwd=tmp_path)
    assert "class_path: rome_lightning.training.FullModule" in printed


@pytest.mark.slow
def test_training_explains_itself_from_the_wheel(installed, tmp_path):
    assert "--trainer" in _run(installed / "rome", "fit", "--help", cwd=tmp_path)
