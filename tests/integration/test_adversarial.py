"""Adversarial training: it is stable, steps are counted once, and it resumes exactly."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_config, without_carry
from tiny_run import IMAGE_SIZE, tiny_arguments, tiny_overlay

from datamodules.synthetic import SyntheticHeads
from rome_lightning.head import load_head
from rome_lightning.models import AvatarModel
from rome_lightning.networks import PatchDiscriminator
from rome_lightning.training import LossConfig, OptimizerConfig
from rome_lightning.training.full_module import discriminator_loss
from rome_lightning.training.objective import Objective, composited
from rome_lightning.training.optimization import build_adam, finish_gradients
from rome_lightning.types import AvatarBatch

NUM_STEPS = 40


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def _overlay(dataset: Path, run_dir: Path, **trainer: Any) -> dict[str, Any]:
    overlay = tiny_overlay(dataset, run_dir)
    overlay["trainer"] |= {"limit_val_batches": 0, **trainer}
    overlay["trainer"]["callbacks"] = [{"class_path": "rome_lightning.callbacks.RunCheckpoint"}]
    options = overlay["model"]["init_args"]
    options["losses"] |= {"adversarial": 0.1, "feature_matching": 1.0}
    # The cosine schedule depends on the planned steps, which differ for a run in two parts.
    options["optimizer"]["schedule"] = "constant"
    options["discriminator"] = {"width": 8, "num_blocks": 2}
    return overlay


def test_two_optimizers_count_as_one_and_resume_exactly(dataset, tmp_path, rome):
    """With a discriminator that is left alone at first."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    late = {name: {"start": 1, "length": 0} for name in ("adversarial", "feature_matching")}
    overlay = _overlay(dataset, whole, max_epochs=2)
    overlay["model"]["init_args"]["losses"]["schedules"] = late
    assert rome(*tiny_arguments("fit", overlay, tmp_path)) == (0, "")
    rows = _rows(whole)
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    assert [bool(row["train/discriminator"]) for row in rows] == [False, True, True, True]
    for name in ("discriminator", "loss_adversarial", "weighted_adversarial", "loss_feature_matching"):
        assert all(math.isfinite(float(row[f"train/{name}"])) for row in rows[1:])

    overlay = _overlay(dataset, parts, max_epochs=1)
    overlay["model"]["init_args"]["losses"]["schedules"] = late
    assert rome(*tiny_arguments("fit", overlay, tmp_path)) == (0, "")
    overlay["trainer"]["max_epochs"] = 2
    last = parts / "checkpoints" / "last.ckpt"
    assert rome(*tiny_arguments("fit", overlay, tmp_path), "--ckpt_path", last) == (0, "")
    assert [row["train/loss"] for row in _rows(parts)] == [row["train/loss"] for row in rows]
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, parts)]
    assert states[0]["global_step"] == 4
    assert len(states[0]["optimizer_states"]) == 2
    assert any(
        key.startswith("discriminator.") and key.endswith("weight_u") for key in states[0]["state_dict"]
    )
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key


def test_bfloat16_with_channels_innermost_and_compiled_networks(dataset, tmp_path, rome, monkeypatch):
    # Compilation itself is torch's responsibility; here networks only have to be passed to it.
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    overlay = _overlay(dataset, tmp_path / "run", max_epochs=1, precision="bf16-mixed")
    overlay["model"]["init_args"]["execution"] = {"compile_networks": True, "channels_last": True}
    assert rome(*tiny_arguments("fit", overlay, tmp_path)) == (0, "")
    assert sorted(compiled) == [
        "CompactUNet",
        "CompactUNet",
        "CompactUNet",
        "OffsetMLP",
        "PatchDiscriminator",
    ]
    assert all(math.isfinite(float(row["train/loss"])) for row in _rows(tmp_path / "run"))
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weight = state["avatar.renderer.network.stem.0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == torch.float32


@pytest.fixture(scope="module")
def batch() -> AvatarBatch:
    """One source and one target of each of two people."""
    heads = SyntheticHeads(load_head("open"), IMAGE_SIZE, texture_size=128, rasterizer="torch")
    source, _ = heads.draw([0, 1], [0, 0])
    target, _ = heads.draw([0, 1], [1, 1])
    return AvatarBatch(source, target)


def test_neither_side_wins_on_two_people(batch):
    torch.manual_seed(0)
    # With a carried photograph there would be little to learn.
    config = without_carry(small_config())
    model = AvatarModel(config)
    adversary = PatchDiscriminator(base_width=16, num_blocks=3)
    losses = LossConfig(perceptual=0.0, adversarial=0.1, feature_matching=1.0, chamfer_points=128)
    objective = Objective(losses, model.head)
    optimizers = [
        build_adam(model.parameters(), OptimizerConfig(learning_rate=2e-3)),
        build_adam(adversary.parameters(), OptimizerConfig(learning_rate=4e-4)),
    ]
    photometric, verdicts = [], []
    for _ in range(NUM_STEPS):
        background = torch.rand(len(batch.target), 3)
        rendered = model(batch.source, batch.target.params, background)
        images = composited(rendered, batch.target, background)
        adversary.requires_grad_(False)
        terms = objective(rendered, batch, images, adversary)
        adversary.requires_grad_(True)
        for optimizer, loss in zip(
            optimizers, (terms.total, discriminator_loss(adversary, images)), strict=True
        ):
            optimizer.zero_grad()
            loss.backward()
            assert finish_gradients(optimizer, 0.0, None) == 0
        for optimizer in optimizers:
            optimizer.step()
        photometric.append(float(terms.raw["photometric"].detach()))
        verdicts.append(float(discriminator_loss(adversary, images).detach()))
    # Images keep improving, and the discriminator is neither at chance (2) nor perfect (0).
    # Measured: 0.57 and 1.96.
    assert sum(photometric[-10:]) < 0.75 * sum(photometric[:10])
    assert 0.1 < sum(verdicts[-10:]) / 10 < 2.2
