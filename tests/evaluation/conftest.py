"""A tiny dataset of synthetic heads, an untrained model, and protocols reduced to fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import yaml
from tiny_protocol import PROTOCOLS


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person for training, three for validation, four frames each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_run, "SPLITS", {"train": (0,), "val": (1, 2, 3)})
        return tiny_run.write_synthetic_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    folder.mkdir()
    return tiny_run.untrained_checkpoint(folder / "last.ckpt")


@pytest.fixture
def shrunk(tmp_path: Path) -> Callable[..., Path]:
    """A protocol of the repository at 64 pixels with two frames per clip, with optional changes."""

    def write(name: str, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        content = yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())
        content["resolution"] = tiny_run.IMAGE_SIZE
        content["dataset"]["split"] = "val"
        for task in content["tasks"].values():
            if task.get("pairs", {}).get("frames") in ("evenly", "consecutive"):
                task["pairs"]["num_frames"] = min(3, task["pairs"].get("num_frames", 8))
        if content.get("mesh"):
            content["mesh"] |= {"num_points": 500, "num_people": 2}
        if change is not None:
            change(content)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
