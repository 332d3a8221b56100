"""One small run of ``rome fit``, made once and looked at by many tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import need, tiny_arguments, tiny_overlay, write_synthetic_dataset

from rome_lightning.cli import main as cli


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def run_folder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two epochs of two steps leave behind."""
    need("lpips_alexnet")
    folder = tmp_path_factory.mktemp("runs")
    arguments = tiny_arguments("fit", tiny_overlay(dataset, folder / "tiny-0"), folder)
    assert cli.main(arguments) == cli.EXIT_OK
    return folder / "tiny-0"


@pytest.fixture
def rome(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; gives its exit code and the line that an error ends with."""

    def _rome(*arguments: object) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        shown = capfd.readouterr().err
        errors = [line for line in shown.splitlines() if line.startswith("rome: error: ")]
        assert "Traceback" not in shown
        assert len(errors) == (code != cli.EXIT_OK)
        return code, errors[0].removeprefix("rome: error: ") if errors else ""

    return _rome
