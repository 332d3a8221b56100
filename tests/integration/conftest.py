"""A small run of ``rome fit``, made once and shared by many tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from tiny_run import (
    IMAGE_SIZE,
    NUM_FRAMES,
    need,
    tiny_arguments,
    tiny_overlay,
    write_synthetic_dataset,
)

from rome_lightning.cli import main as cli
from rome_lightning.media.video import write_video


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def run_folder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder after two epochs of two steps."""
    need("lpips_alexnet")
    folder = tmp_path_factory.mktemp("runs")
    overlay = tiny_overlay(dataset, folder / "tiny-0")
    # Other runs do without it: drawing takes as long as their training.
    overlay["trainer"]["callbacks"].insert(0, {"class_path": "rome_lightning.callbacks.LearningCurves"})
    arguments = tiny_arguments("fit", overlay, folder)
    assert cli.main(arguments) == cli.EXIT_OK
    return folder / "tiny-0"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph with a face, one without, a video of each, and damaged copies."""
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
    arguments += ["--photo-size", IMAGE_SIZE]
    assert cli.main([str(argument) for argument in arguments]) == cli.EXIT_OK
    return output


@pytest.fixture
def rome(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; returns its exit code and the last line of its error output."""

    def _rome(*arguments: object) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        shown = capfd.readouterr().err
        errors = [line for line in shown.splitlines() if line.startswith("rome: error: ")]
        assert "Traceback" not in shown
        assert len(errors) == (code != cli.EXIT_OK)
        return code, errors[0].removeprefix("rome: error: ") if errors else ""

    return _rome
