import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import perturbed, random_frames, random_params, small_config

from rome_lightning.avatar import Avatar
from rome_lightning.models import AvatarConfig, FullAvatar, OffsetConfig
from rome_lightning.models.checkpoint import CONFIG_KEY, config_from_dict, load_full_avatar


@pytest.fixture(scope="module")
def model() -> FullAvatar:
    torch.manual_seed(0)
    return perturbed(FullAvatar(small_config())).eval()


def write_checkpoint(path: Path, model: FullAvatar, config: AvatarConfig) -> None:
    state = {f"avatar.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, CONFIG_KEY: dataclasses.asdict(config)}, path)


def test_config_survives_plain_data() -> None:
    config = small_config(direction="free")
    assert config_from_dict(dataclasses.asdict(config)) == config


def test_checkpoint_gives_the_same_pictures(tmp_path: Path, model: FullAvatar) -> None:
    write_checkpoint(tmp_path / "a.ckpt", model, model.config)
    loaded = load_full_avatar(tmp_path / "a.ckpt")
    frames = random_frames(model.head, 1)
    # Without autograd, so that both use the same convolution kernels.
    with torch.no_grad():
        assert torch.equal(loaded(frames, frames.params).image, model(frames, frames.params).image)


def test_another_architecture_is_refused(tmp_path: Path, model: FullAvatar) -> None:
    other = dataclasses.replace(model.config, offsets=OffsetConfig(uv_size=32, width=16, mlp_width=16))
    write_checkpoint(tmp_path / "a.ckpt", model, other)
    with pytest.raises(ValueError, match=r"another architecture.*size mismatch"):
        load_full_avatar(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not a checkpoint"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_full_avatar(tmp_path / "a.ckpt")


def test_a_checkpoint_cannot_execute_code(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": {}, CONFIG_KEY: Hostile()}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_full_avatar(tmp_path / "a.ckpt")
    assert not (tmp_path / "executed").exists()


def test_avatar_file_round_trip(tmp_path: Path, model: FullAvatar) -> None:
    avatar = Avatar.create(model, random_frames(model.head, 1))
    avatar.save(tmp_path / "person" / "avatar.safetensors")
    loaded = Avatar.load(tmp_path / "person" / "avatar.safetensors")
    drivers = random_params(model.head, 3, seed=2)
    before = torch.cat([r.image for r in avatar.draw(drivers, batch_size=2)])
    after = torch.cat([r.image for r in loaded.draw(drivers, batch_size=2)])
    assert before.shape[0] == 3
    assert torch.equal(before, after)
    # Images are stored with 8 bits.
    torch.testing.assert_close(loaded.source.image, avatar.source.image, atol=0.51 / 255, rtol=0)


def test_a_truncated_avatar_is_refused(tmp_path: Path, model: FullAvatar) -> None:
    path = tmp_path / "avatar.safetensors"
    Avatar.create(model, random_frames(model.head, 1)).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or not an avatar"):
        Avatar.load(path)
