"""Real engines: slow, and only if `make test-engines` has set them up."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import write_synthetic_dataset
from virtual_slurm import NODES, virtual_slurm

ROOT = Path(__file__).parents[2]
_TESTS = (ROOT, ROOT / "tests", ROOT / "tests" / "datamodules")
# The fake tracker, which jobs import too.
sys.path.append(str(ROOT / "tests" / "datamodules"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(1500))
            if not os.environ.get("ROME_TEST_ENGINES"):
                item.add_marker(pytest.mark.skip(reason="needs engines: make test-engines"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic people."""
    return write_synthetic_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """Environment of two virtual nodes whose jobs use this checkout."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("SLURM is not installed: make test-engines")
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="rome") as folder:
        programs = Path(folder) / "bin"
        programs.mkdir()
        (programs / "rome").write_text(f'#!/bin/bash\nexec {sys.executable} -m rome_lightning "$@"\n')
        (programs / "rome").chmod(0o755)
        with pytest.MonkeyPatch.context() as patch, virtual_slurm(Path(folder) / "slurm") as environment:
            for name, value in {
                "SLURM_CONF": environment["SLURM_CONF"],
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(map(str, _TESTS)),
                "OMP_NUM_THREADS": "1",
                # The names of virtual nodes are in no directory.
                "MASTER_ADDR": "127.0.0.1",
                "GLOO_SOCKET_IFNAME": "lo",
            }.items():
                patch.setenv(name, value)
            assert len(NODES) == 2
            yield dict(os.environ)
