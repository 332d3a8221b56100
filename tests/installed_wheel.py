"""The wheel, and an environment that contains it but nothing of the clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy, so that no build products appear in the clone."""
    source = folder / "source"
    source.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("rome_lightning", "datamodules", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("setup.cfg", "setup.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


def install_wheel(wheel: Path, parent: Path) -> Path:
    """Folder of executables of an environment with the wheel and this environment's dependencies."""
    folder = parent / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    # Dependencies come from the running environment; a path file is not followed further, so an
    # editable installation of this project there stays out of sight.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return folder / "bin"
