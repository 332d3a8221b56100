"""The file of an avatar: safetensors with a JSON header, so that nothing in it can run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

import rome_lightning
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.tensors import pack_tensors, unpack_tensors
from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.models.checkpoint import config_from_dict, load_state
from rome_lightning.models.photo_canvas import NUM_STORED, crop_of, widened
from rome_lightning.models.photo_layers import CarriedPhotos, full_hair
from rome_lightning.types import Frames, HeadParams

AVATAR_FILE = "avatar.safetensors"
"""Its name in the folder of an avatar."""
FORMAT = "rome-avatar/2"
"""Written into every avatar file; others are refused."""
_HEADER = {"config": dict, "head": str, "head_fingerprint": str, "image_size": int}
_AS_BYTES = ("image", "foreground_mask")


class _Person(Protocol):
    """Parts of an ``Avatar`` that are written."""

    model: AvatarModel
    code: AvatarCode
    photos: Frames
    network_size: int
    photo_names: tuple[str, ...]


def avatar_file(path: str | Path) -> Path:
    """The file of an avatar, given by its folder or by itself."""
    path = Path(path)
    if path.is_file():
        return path
    return path / AVATAR_FILE if path.is_dir() or not path.suffix else path


def write_avatar(avatar: _Person, path: Path) -> None:
    """Write an avatar; the file appears under its name only when it is complete.

    Args:
        avatar: to write.
        path: of the file; its folder is made.
    """
    tensors = {f"model/{key}": value for key, value in avatar.model.state_dict().items()}
    tensors |= _tensors("code/", avatar.code) | _tensors("photo/", avatar.photos)
    for name in _AS_BYTES:
        # Their original form before tracking.
        tensors[f"photo/{name}"] = (tensors[f"photo/{name}"] * 255).round().to(torch.uint8)
    if avatar.code.carried is not None:
        # Without loss: their values are those of half precision.
        tensors["code/carried/layers"] = tensors["code/carried/layers"].half()
    head = avatar.model.head
    header = {
        "format": FORMAT,
        "version": rome_lightning.__version__,
        "config": dataclasses.asdict(avatar.model.config),
        "head": head.name,
        "head_fingerprint": mesh_fingerprint(head),
        "image_size": avatar.network_size,
        "photo_names": list(avatar.photo_names),
    }
    write_atomic(path, pack_tensors(tensors, {"rome": json.dumps(header)}))


def read_avatar(path: Path) -> tuple[AvatarModel, AvatarCode, Frames, int, tuple[str, ...]]:
    """The parts of an ``Avatar`` from a file of ``write_avatar``; errors as for ``Avatar.load``."""
    header, tensors = _read(path)
    try:
        model = AvatarModel(config_from_dict(header["config"]))
    except ValueError as error:
        raise ValueError(
            f"{path} was made by rome_lightning {header.get('version')}, this is "
            f"{rome_lightning.__version__}: {error}; create the avatar again"
        ) from error
    found = mesh_fingerprint(model.head)
    if header["head_fingerprint"] != found:
        raise ValueError(
            f"{path} needs head {header['head']!r} ({header['head_fingerprint'][:12]}), "
            f"{model.head.name!r} ({found[:12]}) is installed; create the avatar again with this head"
        )
    load_state(model, _group(tensors, "model/"), path)
    code, photo = _group(tensors, "code/"), _group(tensors, "photo/")
    try:
        for name in _AS_BYTES:
            photo[name] = photo[name].float() / 255
        params = HeadParams(**_group(photo, "params/"))
        photos = Frames(**{k: v for k, v in photo.items() if "/" not in k}, params=params)
        restored = AvatarCode(code["texture"], code["shape"], code.get("offsets"), _carried(code))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a complete avatar file: {error}") from error
    # Files of earlier versions have no names.
    names = header.get("photo_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is not a complete avatar file: its photo_names are not names")
    return model.eval().requires_grad_(False), restored, photos, header["image_size"], tuple(names)


def _carried(code: dict[str, Tensor]) -> CarriedPhotos | None:
    """The photographs that a deferred renderer with ``carry`` uses."""
    parts = _group(code, "carried/")
    if not parts:
        return None
    layers = parts["layers"].float()
    if layers.shape[2] > NUM_STORED:
        raise ValueError(
            f"its photographs have {layers.shape[2]} layers, this version knows {NUM_STORED}; update "
            "rome-lightning, or create the avatar again"
        )
    # Avatars of earlier versions do not know which pixels are hair, what depends on the mouth, nor how full
    # the hair is.
    layers = F.pad(layers, (0, 0, 0, 0, 0, NUM_STORED - layers.shape[2]))
    own_only = parts.get("own_only", parts.get("own_mouth", torch.zeros_like(parts["visibility"])))
    full = parts["full_hair"] if "full_hair" in parts else full_hair(layers)
    if layers.shape[-1] == layers.shape[-2]:
        # Avatars of earlier versions have the crop alone, which is already filled.
        canvas = widened(layers.flatten(0, 1)).unflatten(0, layers.shape[:2])
        crop_of(canvas).copy_(layers)
        layers = canvas
    return CarriedPhotos(layers, parts["vertices"], parts["visibility"], own_only, full)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Checked header and tensors of an avatar file."""
    if not path.is_file():
        raise FileNotFoundError(f"no avatar at {path}; create one with `rome avatar create PHOTO -o FOLDER`")
    try:
        tensors, metadata = unpack_tensors(path)
        header = json.loads(metadata.get("rome", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or not an avatar file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise ValueError(
            f"{path} has format {found!r}, this version reads {FORMAT!r}; create the avatar again from "
            "its photographs"
        )
    wrong = [key for key, kind in _HEADER.items() if not isinstance(header.get(key), kind)]
    if wrong:
        raise ValueError(f"{path} is not a complete avatar file: its header lacks {', '.join(wrong)}")
    return header, tensors


def _tensors(prefix: str, struct: AvatarCode | CarriedPhotos | Frames | HeadParams) -> dict[str, Tensor]:
    """Tensor fields by name, nested structs with their name as a folder."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, Tensor):
            found[prefix + field.name] = value
        elif isinstance(value, HeadParams | CarriedPhotos):
            found |= _tensors(f"{prefix}{field.name}/", value)
    return found


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
