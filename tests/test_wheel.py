"""The wheel holds what is needed and works outside the clone."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build products appear in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("rome_lightning", "datamodules", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("setup.cfg", "setup.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of the programs of an environment that has the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    # Dependencies come from the running environment; a path file is not followed further, so an
    # editable installation of this project there stays out of sight.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    _run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return folder / "bin"


def _run(*command, cwd=None):
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


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
    # The page of `rome avatar view`, whose script is built and not a Python file.
    assert "rome_lightning/viewer/page/viewer.js" in names
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
    """Nothing of the clone is in sight: the file that is read lies in the package."""
    printed = _run(installed / "rome", "fit", "--config", "full/base", "--print_config", cwd=tmp_path)
    assert "class_path: rome_lightning.training.FullModule" in printed


@pytest.mark.slow
def test_training_explains_itself_from_the_wheel(installed, tmp_path):
    assert "--trainer" in _run(installed / "rome", "fit", "--help", cwd=tmp_path)
