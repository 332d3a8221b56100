"""Models shipped with the package, by name, and a function that opens any model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import rome_lightning
from rome_lightning.media.digest import file_sha256
from rome_lightning.media.tensors import HEADER, read_shipped, read_tensors, write_tensors
from rome_lightning.models.avatar_model import AvatarModel
from rome_lightning.models.checkpoint import (
    CONFIG_KEY,
    avatar_weights,
    config_from_dict,
    load_avatar,
    load_state,
    read_checkpoint,
)

FORMAT = "rome-model/1"
"""Written into every model file; others are refused."""
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ShippedModel:
    """A model shipped with the package."""

    name: str
    file: str
    sha256: str
    licence: str
    data: str
    """Training data, in a sentence."""
    scores: dict[str, str]
    """One sentence per protocol; the card explains them."""

    @property
    def path(self) -> Path:
        """The installed file."""
        return _FOLDER / self.file

    @property
    def card(self) -> Path:
        """The model card: intended use, limits, data and training."""
        return self.path.with_suffix(".md")


SHIPPED: dict[str, ShippedModel] = {
    model.name: model
    for model in (
        ShippedModel(
            name="open-1",
            file="open-1.safetensors",
            sha256="bb5d188e0a11f4604c5b8e9a2eb839235031317f450d9f61ef0d2f2ae1c7fcbf",
            licence="Apache-2.0",
            data="615 licence-clean photographs of 537 people (open-faces), no video",
            scores={
                "turned": "PSNR / LPIPS 24.02 / 0.069 to 10 degrees, 18.66 / 0.117 to 20, 17.01 / 0.147 to 35"
            },
        ),
    )
}
"""By name; the first is the default."""


def model_names() -> str:
    """Names of the shipped models, for messages."""
    return ", ".join(SHIPPED) or "none"


def model_file(model: str | Path) -> Path:
    """The file of a model given by name or path."""
    return SHIPPED[str(model)].path if str(model) in SHIPPED else Path(model)


def open_model(model: str | Path | None = None, rasterizer: str | None = None) -> AvatarModel:
    """Open a model by name or file, ready for inference.

    Args:
        model: name of a shipped model, a checkpoint of ``rome fit``, or a file of ``write_model``; the first
            shipped model by default.
        rasterizer: backend to use instead of the one it was trained with.

    Raises:
        FileNotFoundError: there is no model or file of that name.
        ValueError: the file is damaged or of another version.

    Example:
        >>> model = open_model()
        >>> model.head.name, model.image_size
        ('open-head-1', 256)
    """
    if model is None:
        model = next(iter(SHIPPED))
    path = _found(model)
    if path.suffix != ".safetensors":
        return load_avatar(path, rasterizer)
    tensors, header = _read(model, path)
    config = config_from_dict(header["config"])
    if rasterizer is not None:
        config = dataclasses.replace(config, rasterizer=rasterizer)
    avatar = AvatarModel(config)
    load_state(avatar, {name: _single(value) for name, value in tensors.items()}, path)
    avatar.image_size = int(header["image_size"])
    return avatar.eval().requires_grad_(False)


def model_weights(model: str | Path) -> dict[str, Tensor]:
    """Weights of a model's avatar in single precision, to initialize training.

    Args:
        model: as for ``open_model``.

    Raises:
        FileNotFoundError: there is no model or file of that name.
        ValueError: the file is damaged.
    """
    path = _found(model)
    if path.suffix != ".safetensors":
        return avatar_weights(read_checkpoint(path))
    tensors, _ = _read(model, path)
    return {name: _single(value) for name, value in tensors.items()}


def _found(model: str | Path) -> Path:
    """The existing file of a model given by name or path."""
    path = model_file(model)
    if not path.is_file():
        raise FileNotFoundError(
            f"no model {str(model)!r}: neither a file nor one of the shipped models ({model_names()})"
        )
    return path


def _read(model: str | Path, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a model's file; a shipped one must be intact to the byte."""
    if str(model) not in SHIPPED:
        return read_tensors(path, FORMAT)
    tensors, metadata = read_shipped(path, SHIPPED[str(model)].sha256)
    return tensors, json.loads(metadata[HEADER])


def write_model(checkpoint: Path, path: Path, half: bool = True) -> None:
    """Write a checkpoint's avatar weights as a small file that contains no executable code.

    Args:
        checkpoint: of ``rome fit``.
        path: ``.safetensors`` file to write.
        half: store the weights in half precision; they are converted back when read.
    """
    content = read_checkpoint(checkpoint)
    weights = avatar_weights(content)
    if half:
        weights = {name: _half(value) for name, value in weights.items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": rome_lightning.__version__,
        "config": content[CONFIG_KEY],
        "image_size": content["image_size"],
        "steps": content.get("global_step"),
        "checkpoint_sha256": file_sha256(checkpoint),
    }
    write_tensors(path, weights, header)


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
