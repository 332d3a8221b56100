"""Avatar models from checkpoint files, read as plain data: no code in a file is executed."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rome_lightning.media.digest import check_archive, note_missing
from rome_lightning.models.avatar_model import AvatarModel
from rome_lightning.models.config import (
    AvatarConfig,
    BasisConfig,
    DeferredRendererConfig,
    DriverConfig,
    OffsetConfig,
    TextureConfig,
)

CONFIG_KEY = "avatar_config"
"""Key of a checkpoint's ``dataclasses.asdict(AvatarConfig)``."""
_PREFIX = "avatar."


def config_from_dict(values: dict[str, Any]) -> AvatarConfig:
    """Inverse of ``dataclasses.asdict``.

    Raises:
        ValueError: this version does not know an option.
    """
    try:
        # Models of earlier versions neither carried the photograph nor mirrored it.
        earlier = {"decoder": {"carry": False}, "texture": {"mirror": False}}
        values = values | {part: defaults | values[part] for part, defaults in earlier.items()}
        return AvatarConfig(
            **values
            | {
                "texture": TextureConfig(**values["texture"]),
                "offsets": OffsetConfig(**values["offsets"]),
                "decoder": DeferredRendererConfig(**values["decoder"]),
                "basis": BasisConfig(**values.get("basis", {})),
                "driver": DriverConfig(**values.get("driver", {})),
            }
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"the avatar configuration is not one of this version: {error}") from error


def verify_checkpoint(path: Path) -> None:
    """Check a file against its SHA-256, or, without one, against the CRC-32 of each record.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, damaged, or no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        sealed = check_archive(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not sealed:
        note_missing(path, "its parts were checked by their CRC-32")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint, verified.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or holds something else.
    """
    verify_checkpoint(path)
    try:
        with warnings.catch_warnings():
            # For other files torch first warns about their pickle protocol.
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is not a readable checkpoint: it contains more than plain data") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or CONFIG_KEY not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of rome_lightning (no state_dict and {CONFIG_KEY})")
    state, config, size = checkpoint["state_dict"], checkpoint[CONFIG_KEY], checkpoint.get("image_size", 1)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"{path} is not a complete checkpoint: its state_dict must hold tensors by name")
    if not isinstance(config, dict) or not isinstance(size, int) or size < 1:
        raise ValueError(f"{path} is not a complete checkpoint: {CONFIG_KEY} or image_size has a wrong type")
    return checkpoint


def avatar_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The avatar's weights in a checkpoint, without their prefix."""
    state = checkpoint["state_dict"]
    return {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}


def load_state(avatar: AvatarModel, weights: dict[str, Tensor], origin: Path) -> None:
    """Load weights into a model, strictly.

    Raises:
        ValueError: the weights are not finite or belong to another architecture; names the first difference.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{origin} has weights that are not finite, {name}; take an earlier checkpoint")
    try:
        avatar.load_state_dict(weights)
    except RuntimeError as error:
        difference = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(
            f"{origin} was trained with another architecture than this configuration: {difference}; "
            "use the config.yaml of its run folder"
        ) from error


def share_weights(linear: AvatarModel, full: Mapping[str, Tensor]) -> None:
    """Copy everything but the offsets and the driver network from a full model.

    Args:
        linear: changed in place.
        full: weights of the full model, see ``avatar_weights``.

    Raises:
        ValueError: the models do not fit together; names the first difference.
    """
    own = ("offset_network.", "driver_network.")
    shared = {key: value for key, value in full.items() if not key.startswith(own)}
    # Only parts that the models do not share may be missing.
    found = linear.load_state_dict(shared, strict=False)
    left = [key for key in found.missing_keys if not key.startswith(own)]
    if left or found.unexpected_keys:
        raise ValueError(f"the full model does not fit the linear one: {[*left, *found.unexpected_keys][0]}")


def load_avatar(path: Path, rasterizer: str | None = None) -> AvatarModel:
    """Load the full or linear model of a checkpoint, ready for inference.

    Args:
        path: file written by ``rome fit``.
        rasterizer: backend to use instead of the one it was trained with.
    """
    checkpoint = read_checkpoint(path)
    config = config_from_dict(checkpoint[CONFIG_KEY])
    if rasterizer is not None:
        config = dataclasses.replace(config, rasterizer=rasterizer)
    avatar = AvatarModel(config)
    load_state(avatar, avatar_weights(checkpoint), path)
    avatar.image_size = int(checkpoint.get("image_size", avatar.image_size))
    return avatar.eval().requires_grad_(False)


load_full_avatar = load_avatar
"""Alias that matches ``FullAvatar``."""
