"""The one step of the build that setup.cfg cannot state: `experiments/` goes into the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithExperiments(build_py):
    """Copies the configurations beside the code, so that commands find them by name from any folder."""

    def run(self) -> None:
        """Build, then copy; an editable installation reads the folder where it is."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "rome_lightning" / "experiments"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "experiments", target)


setup(cmdclass={"build_py": BuildWithExperiments})
