"""Every ablation changes its base, builds its model and takes a step; overlays and index match the table."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from ablation_table import FOLDER, index, overlay, read_table
from configurations import (
    EXPERIMENTS,
    check_it_changes_its_base,
    check_it_parses,
    check_it_says_what_it_means,
    resolve_files,
)
from helpers import SIZE, random_frames
from tiny_run import BASE, need

from rome_lightning.head import HeadModel, load_head
from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import config_from_dict
from rome_lightning.networks import PatchDiscriminator
from rome_lightning.training.config import LossConfig, Ramp
from rome_lightning.training.objective import Objective, composited
from rome_lightning.training.views import SourceViews, ViewsConfig
from rome_lightning.types import AvatarBatch

ABLATIONS = read_table()
PAPER = EXPERIMENTS / "rome" / "paper.yaml"
RECIPES = [
    (BASE,),
    (BASE, BASE.with_name("cpu.yaml")),
    (BASE, PAPER),
    (BASE, PAPER, PAPER.with_name("release.yaml")),
]
# They change settings outside the module, or need files that cannot be shipped.
NO_STEP = {"ema", "flame", "paper_adam", "clipped_gradients"}


STEPS = [
    *(
        pytest.param((*each.base_files, each.path), id=each.name)
        for each in ABLATIONS
        if each.name not in NO_STEP
    ),
    *(pytest.param(files, id=files[-1].stem) for files in RECIPES),
]


def _resolved(*files: Path) -> dict[str, Any]:
    return copy.deepcopy(resolve_files(*files))


@functools.cache
def _head(name: str, release: str) -> HeadModel:
    """A head has nothing to train, so all models share it."""
    return load_head(name, release)


def _model(avatar: dict[str, Any]) -> AvatarModel:
    config = config_from_dict(_small(avatar))
    return AvatarModel(config, _head(config.head, config.release))


def _small(avatar: dict[str, Any]) -> dict[str, Any]:
    """The same options with networks that run in milliseconds."""
    direct = avatar["texture"]["source"] == "direct"
    released = {part: avatar[part]["network"] == "release" for part in ("offsets", "decoder")}
    avatar["rasterizer"] = "torch"
    avatar["texture"] |= {"size": SIZE, "width": 32 if direct else 8, "num_levels": 3}
    avatar["offsets"] |= {"uv_size": 32, "width": 16 if released["offsets"] else 8, "mlp_width": 16}
    avatar["decoder"] |= {"width": 16, "num_levels": 3}
    return avatar


def _losses(options: dict[str, Any], **changes: Any) -> LossConfig:
    ramps = {name: Ramp(**values) for name, values in options["schedules"].items()}
    return LossConfig(**(options | changes | {"schedules": ramps, "chamfer_points": 64}))


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_an_overlay_takes_effect(ablation):
    check_it_parses(ablation.path)
    check_it_says_what_it_means(ablation.path)
    check_it_changes_its_base(ablation.path)


@pytest.mark.parametrize("files", STEPS)
def test_a_step(files):
    options = _resolved(*files)["model"]["init_args"]
    torch.manual_seed(0)
    model = _model(options["avatar"])
    # VGG and SFace have their own tests.
    objective = Objective(_losses(options["losses"], perceptual=0.0, identity=0.0), model.head)
    adversary = PatchDiscriminator(base_width=8, num_blocks=2).requires_grad_(False)
    source, target = random_frames(model.head, 1), random_frames(model.head, 1, seed=1)
    if "views" in options:
        source = SourceViews(ViewsConfig(**options["views"]), model.head)(model, source)
    rendered = model(source, target.params)
    images = composited(rendered, target, torch.full((1, 3), 0.5))
    uses_adversary = objective.config.adversarial > 0
    step = 10_000  # every ramp is over
    terms = objective(
        rendered, AvatarBatch(source, target), images, adversary if uses_adversary else None, step
    )
    terms.total.backward()
    assert torch.isfinite(terms.total)
    wanted = {name for name, value in options["losses"].items() if isinstance(value, float) and value > 0}
    weights = set(terms.raw) | {"perceptual", "identity", "mesh_weight", "feature_weight"}
    assert wanted <= weights
    # With a discriminator, what a network lacks is found by DDP only in a run: every parameter takes part.
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


def test_overlays_and_index_are_those_of_the_table():
    """After a change of the table: ``python tests/configs/ablation_table.py``."""
    overlays = {path: path.read_text() for path in FOLDER.glob("*.yaml")}
    assert overlays == {ablation.path: overlay(ablation) for ablation in ABLATIONS}
    assert (FOLDER / "README.md").read_text() == index(ABLATIONS)


def test_weights_of_zero_build_nothing():
    options = _resolved(BASE)["model"]["init_args"]["losses"]
    without = {name: 0.0 for name in ("perceptual", "gaze", "identity", "adversarial", "feature_matching")}
    head = _head("open", "")
    objective = Objective(_losses(options, **without), head)
    assert (objective.perceptual, objective.gaze, objective.identity) == (None, None, None)


def test_the_paper_builds_its_critics():
    need("vgg19_normalized", "sface")
    options = _resolved(BASE, PAPER)["model"]["init_args"]
    objective = Objective(_losses(options["losses"]), _head("open", ""))
    assert objective.perceptual is not None
    assert objective.identity is not None
    # Neither of them is saved or trained.
    assert objective.state_dict() == {}
    assert list(objective.parameters()) == []
