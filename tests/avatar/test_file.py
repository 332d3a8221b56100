"""An avatar's file restores the avatar, and unusable files are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import perturbed, random_frames, small_config
from safetensors import safe_open
from safetensors.torch import save_file

from rome_lightning.avatar import Avatar
from rome_lightning.avatar.file import avatar_file
from rome_lightning.models import AvatarModel
from rome_lightning.models.photo_canvas import crop_of
from rome_lightning.types import Frames


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    model = perturbed(AvatarModel(small_config()))
    frames = random_frames(model.head, 2)
    frames = frames[torch.tensor([0, 0])]
    levels = {name: (getattr(frames, name) * 255).round() / 255 for name in ("image", "foreground_mask")}
    return Avatar.create(model, Frames(**vars(frames) | levels), refine_steps=2)


@pytest.fixture(scope="module")
def path(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "new" / "avatar.safetensors"
    avatar.save(path)
    return path


def contents(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["rome"]), tensors


def rewritten(path: Path, target: Path, **changes: Any) -> Path:
    """A copy with a changed header; ``None`` removes an entry."""
    header, tensors = contents(path)
    header |= changes
    header = {key: value for key, value in header.items() if value is not None}
    save_file(tensors, target, {"rome": json.dumps(header)})
    return target


def test_round_trip(avatar: Avatar, path: Path) -> None:
    loaded = Avatar.load(path)
    assert [p.name for p in path.parent.iterdir()] == ["avatar.safetensors"]
    for struct, other in ((avatar.code, loaded.code), (avatar.photos.params, loaded.photos.params)):
        for name, value in vars(struct).items():
            torch.testing.assert_close(getattr(other, name), value, atol=0, rtol=0)
    for name in ("image", "foreground_mask", "regions", "landmarks"):
        torch.testing.assert_close(getattr(loaded.photos, name), getattr(avatar.photos, name))
    params = avatar.source.params
    torch.testing.assert_close(next(loaded.draw(params)).image, next(avatar.draw(params)).image)


def test_a_folder_stands_for_the_file_in_it(avatar: Avatar, tmp_path: Path) -> None:
    """As on the command line; a missing folder is created."""
    avatar.save(tmp_path / "me")
    assert [p.name for p in (tmp_path / "me").iterdir()] == ["avatar.safetensors"]
    assert torch.equal(Avatar.load(str(tmp_path / "me")).code.texture, avatar.code.texture)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(path: Path, tmp_path: Path, share: float) -> None:
    whole = path.read_bytes()
    short = tmp_path / "short.safetensors"
    short.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"short\.safetensors is damaged or not an avatar file"):
        Avatar.load(short)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": "rome-avatar/1"}, "has format 'rome-avatar/1', this version reads 'rome-avatar/2'"),
        ({"format": None}, "has format None"),
        ({"head_fingerprint": "0" * 64}, r"needs head 'open-head-1' \(000000000000\), 'open-head-1' \("),
        ({"head_fingerprint": None}, "its header lacks head_fingerprint"),
        ({"image_size": "big"}, "its header lacks image_size"),
        ({"config": {"head": "open"}}, "was made by rome_lightning .*create the avatar again"),
    ],
)
def test_versions_and_heads_that_do_not_fit_are_refused(
    path: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Avatar.load(rewritten(path, tmp_path / "other.safetensors", **changes))


def test_missing_tensors_are_named(path: Path, tmp_path: Path) -> None:
    header, tensors = contents(path)
    for lost, complaint in (
        ("code/texture", "not a complete avatar file"),
        ("photo/image", "not a complete avatar file"),
        ("photo/params/shape", "not a complete avatar file"),
        ("model/renderer.network.head.weight", "another architecture"),
    ):
        assert lost in tensors
        target = tmp_path / "part.safetensors"
        save_file(
            {key: value for key, value in tensors.items() if key != lost},
            target,
            {"rome": json.dumps(header)},
        )
        with pytest.raises(ValueError, match=complaint):
            Avatar.load(target)


def test_a_changed_byte_is_found(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for place in (200, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "a.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or not an avatar file"):
            Avatar.load(tmp_path / "a.safetensors")


def test_photographs_of_other_versions(avatar: Avatar, path: Path, tmp_path: Path) -> None:
    """Files of earlier versions lack hair information; those of later versions cannot be rendered."""
    header, tensors = contents(path)
    target, layers = tmp_path / "other.safetensors", tensors["code/carried/layers"]
    assert avatar.code.carried is not None
    save_file(
        tensors | {"code/carried/layers": layers[:, :, :-1].clone()}, target, {"rome": json.dumps(header)}
    )
    earlier = Avatar.load(target)
    assert earlier.code.carried is not None
    own = avatar.code.carried.layers
    torch.testing.assert_close(earlier.code.carried.layers[:, :, :-1], own[:, :, :-1], atol=0, rtol=0)
    assert not earlier.code.carried.layers[:, :, -1].any()
    assert next(earlier.draw(avatar.source.params)).image.isfinite().all()
    # The crop alone, as before it was continued in advance.
    crop = crop_of(layers).clone()
    save_file(tensors | {"code/carried/layers": crop}, target, {"rome": json.dumps(header)})
    widened = Avatar.load(target).code.carried.layers
    assert widened.shape == own.shape
    assert torch.equal(crop_of(widened), crop_of(own))
    without = {name: value for name, value in tensors.items() if name != "code/carried/full_hair"}
    save_file(without, target, {"rome": json.dumps(header)})
    assert torch.equal(Avatar.load(target).code.carried.full_hair, avatar.code.carried.full_hair)
    later = torch.cat([layers, layers[:, :, :1]], dim=2)
    save_file(tensors | {"code/carried/layers": later}, target, {"rome": json.dumps(header)})
    with pytest.raises(ValueError, match=r"have 10 layers, this version knows 9; update rome-lightning"):
        Avatar.load(target)


def test_a_file_needs_no_suffix(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "me")
    assert avatar_file(tmp_path / "me") == tmp_path / "me"
    assert Avatar.load(tmp_path / "me").network_size > 0


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="create one with `rome avatar create"):
        Avatar.load(tmp_path / "nobody.safetensors")
