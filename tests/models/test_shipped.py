"""Model files: half the size, equal to the checkpoint up to rounding, and checked before use."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from rome_lightning.models import AvatarModel
from rome_lightning.models import shipped as module
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.models.shipped import SHIPPED, ShippedModel, open_model, write_model
from rome_lightning.training import FullModule
from rome_lightning.training.config import LossConfig, OptimizerConfig


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    import dataclasses

    model = perturbed(AvatarModel(small_config(kind="fitted")))
    path = tmp_path / "last.ckpt"
    state = {f"avatar.{name}": value for name, value in model.state_dict().items()}
    config = dataclasses.asdict(model.config)
    torch.save({"state_dict": state, CONFIG_KEY: config, "image_size": SIZE, "global_step": 7}, path)
    return path


def test_half_precision_draws_the_same_picture(checkpoint: Path, tmp_path: Path) -> None:
    write_model(checkpoint, tmp_path / "model.safetensors")
    single, half = open_model(checkpoint), open_model(tmp_path / "model.safetensors")
    assert half.image_size == SIZE
    assert (tmp_path / "model.safetensors").stat().st_size < 0.7 * checkpoint.stat().st_size
    frames = random_frames(single.head, 1)
    with torch.no_grad():
        first, second = (model(frames, frames.params).image for model in (single, half))
    assert (first - second).abs().mean() < 1e-3


def test_a_model_is_known_by_its_name_and_a_damaged_one_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.safetensors"
    write_model(checkpoint, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    monkeypatch.setitem(SHIPPED, "small", ShippedModel("small", path.name, digest, "Apache-2.0", "noise", {}))
    assert open_model("small").config == open_model(path).config
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged.*reinstall"):
        open_model("small")


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor one of the shipped models"):
        open_model(tmp_path / "nothing.ckpt")
    other = tmp_path / "x.safetensors"
    other.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        open_model(other)


@pytest.mark.parametrize("name", list(SHIPPED))
def test_shipped_models_are_whole_and_have_a_card(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = open_model(name)
    # The package knows their digests, so users are not warned that the files contain none.
    assert not caplog.records
    assert SHIPPED[name].path.stat().st_size < 12e6
    assert model.image_size == 256
    assert SHIPPED[name].card.read_text(encoding="utf-8").startswith("# ")


def test_training_begins_with_the_weights_of_a_shipped_model() -> None:
    wanted = open_model("open-1")
    module = FullModule(
        wanted.config, LossConfig(perceptual=0.0), OptimizerConfig(), init_from=Path("open-1")
    )
    begun = module.avatar.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in wanted.state_dict().items())


@pytest.mark.parametrize("model", SHIPPED.values(), ids=list(SHIPPED))
def test_scores_are_those_of_the_card(model: ShippedModel) -> None:
    """``rome models`` and the card are both written by hand."""
    card = model.card.read_text(encoding="utf-8")
    for sentence in model.scores.values():
        found = re.findall(r"[\d.]+ / [\d.]+", sentence)
        assert found
        for score in found:
            assert f"| {score} / " in card
