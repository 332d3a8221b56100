"""Photographs are prepared as in training, and those of another person are reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_frames, small_config
from PIL import Image

from rome_lightning import metrics
from rome_lightning.avatar import making
from rome_lightning.avatar.avatar import REFINE_STEPS
from rome_lightning.avatar.making import PHOTO_SIZE, photo_tracker, read_person
from rome_lightning.cli.avatar import build_parser
from rome_lightning.head import HeadModel, load_head
from rome_lightning.models import AvatarModel
from rome_lightning.tracking.crop import RELEASE_RULE, CropRule


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def test_released_models_have_the_releases_square(head: HeadModel) -> None:
    config = small_config()
    decoder = dataclasses.replace(config.decoder, interpolation="release")
    released = AvatarModel(dataclasses.replace(config, decoder=decoder), head)
    assert photo_tracker(released).crop_rule == RELEASE_RULE
    assert photo_tracker(AvatarModel(config, head)).crop_rule == CropRule()


def test_crops_are_no_smaller_than_what_the_networks_see(head: HeadModel) -> None:
    model = AvatarModel(small_config(), head)
    assert photo_tracker(model).image_size == PHOTO_SIZE
    assert photo_tracker(model, 64, 128).image_size == 128


def test_the_commands_defaults_are_the_librarys() -> None:
    args = build_parser().parse_args(["create", "a.png", "-o", "me"])
    assert (args.photo_size, args.refine_steps) == (PHOTO_SIZE, REFINE_STEPS)


def test_photographs_of_another_person_are_named(
    head: HeadModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two orthogonal embeddings, a third near the first, no face in the fourth."""
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.0, 0.0]])

    class Embedder:
        def __init__(self, *paths: Path) -> None:
            self.paths = paths

        def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return embeddings, embeddings.any(dim=1)

    def tracked(*given: Any) -> Any:
        return random_frames(head, len(given[1]))

    monkeypatch.setattr(metrics, "SFaceEmbedder", Embedder)
    monkeypatch.setattr(making, "track_photos", tracked)
    monkeypatch.setattr(making.assets, "resolve", lambda name: Path(name))
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    for path in paths:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    warnings: list[str] = []
    tracker = photo_tracker(AvatarModel(small_config(), head))
    frames = read_person(tracker, paths, warnings.append, [path.name for path in paths])
    assert len(frames) == 4
    assert len(warnings) == 1
    assert warnings[0].startswith("b.png may not show the same person as a.png (similarity 0.00")
