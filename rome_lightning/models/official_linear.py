"""The official linear model: ``u_full.pt``, ``mean_deform.pt``, ``linear_hair.pth`` and ``disp_model.pth``.

Users bring their own files; none is shipped. They are read as plain tensors and loaded to the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rome_lightning.models.avatar_model import AvatarModel
from rome_lightning.models.basis import OFFICIAL_HAIR, OFFICIAL_NECK, LinearBasis, read_official
from rome_lightning.models.checkpoint import (
    CONFIG_KEY,
    avatar_weights,
    config_from_dict,
    load_state,
    share_weights,
)
from rome_lightning.models.config import AvatarConfig, BasisConfig, DriverConfig
from rome_lightning.models.offsets import BasisOffsets
from rome_lightning.types import POSE_SIZE

OFFICIAL_EXPRESSION, OFFICIAL_POSE, OFFICIAL_CAMERA = 50, 6, 3
"""Outputs of ``disp_model.pth`` in order; the pose is global, then jaw, as in DECA."""
_OFFICIAL_SIZE = 256


def official_linear_config(full: AvatarConfig, driver: bool = True) -> AvatarConfig:
    """The released linear model's configuration: ResNet-50, and MobileNetV2 with a ``driver``."""
    return dataclasses.replace(
        full,
        offsets=dataclasses.replace(full.offsets, kind="basis", expression_dependent=False),
        basis=BasisConfig(
            OFFICIAL_HAIR, OFFICIAL_NECK, "resnet50", _OFFICIAL_SIZE, image="raw", turning=False
        ),
        driver=DriverConfig("mobilenet_v2" if driver else "none", _OFFICIAL_SIZE, image="raw"),
    )


def import_official_linear(
    full: AvatarModel, u_full: Path, mean_deform: Path, linear_hair: Path, disp_model: Path | None
) -> AvatarModel:
    """The released linear model, with the texture encoder and deferred renderer of a full model.

    Args:
        full: from ``import_official`` or trained with FLAME.
        u_full: basis, (3 v, 60).
        mean_deform: mean offsets, (v, 3).
        linear_hair: torchvision ResNet-50 with 60 outputs.
        disp_model: torchvision MobileNetV2 with 59 outputs; without it the tracker is used.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is of another kind, or does not fit the head model.
    """
    head = full.head
    if head.num_expression < OFFICIAL_EXPRESSION:
        raise ValueError(
            f"the release's driver network predicts {OFFICIAL_EXPRESSION} expression coefficients of FLAME, "
            f"head {head.name} has {head.num_expression}"
        )
    basis = LinearBasis.from_official(u_full, mean_deform, head)
    avatar = AvatarModel(official_linear_config(full.config, disp_model is not None), head)
    # Offsets and driver network are filled in below.
    share_weights(avatar, full.state_dict())
    part, driver = avatar.offset_network, avatar.driver_network
    assert isinstance(part, BasisOffsets)
    part.set_basis(basis)
    _load(part.regressor.network, read_official(linear_hair), linear_hair)
    with torch.no_grad():
        # Ours predicts standard deviations, the released network metres.
        part.regressor.last_layer.weight.div_(part.scale[:, None])
        part.regressor.last_layer.bias.div_(part.scale)
    if driver is not None and disp_model is not None:
        driver.centre.zero_()
        driver.scale.fill_(1)
        _load(driver.regressor.network, _driver_weights(disp_model, head.num_expression), disp_model)
    return avatar.eval().requires_grad_(False)


def import_linear(checkpoint: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the released linear model's checkpoint from that of the full model.

    Args:
        checkpoint: from ``official.import_official``.
        folder: with the files under their official names; ``disp_model.pth`` is optional.
    """
    full = AvatarModel(config_from_dict(checkpoint[CONFIG_KEY]))
    load_state(full, avatar_weights(checkpoint), folder)
    driver = folder / "disp_model.pth"
    linear = import_official_linear(
        full,
        folder / "u_full.pt",
        folder / "mean_deform.pt",
        folder / "linear_hair.pth",
        driver if driver.is_file() else None,
    )
    return checkpoint | {
        "state_dict": {f"avatar.{key}": value for key, value in linear.state_dict().items()},
        CONFIG_KEY: dataclasses.asdict(linear.config),
    }


def _driver_weights(path: Path, num_expression: int) -> dict[str, Tensor]:
    """The released network with its outputs in our order; outputs it lacks stay 0."""
    weights = read_official(path)
    names = ("classifier.1.weight", "classifier.1.bias")
    outputs = OFFICIAL_EXPRESSION + OFFICIAL_POSE + OFFICIAL_CAMERA
    if not isinstance(weights, Mapping) or any(
        name not in weights or len(weights[name]) != outputs for name in names
    ):
        raise ValueError(f"{path} is not a torchvision MobileNetV2 with {outputs} outputs")
    first_pose = num_expression
    camera = num_expression + POSE_SIZE
    # Global rotation, then jaw behind the neck, in the order of HeadParams.pose.
    places = [*range(OFFICIAL_EXPRESSION), *range(first_pose, first_pose + 3)]
    places += [*range(first_pose + 6, first_pose + 9), *range(camera, camera + OFFICIAL_CAMERA)]
    placed = dict(weights)
    for name in names:
        wide = weights[name].new_zeros(camera + OFFICIAL_CAMERA, *weights[name].shape[1:])
        wide[places] = weights[name]
        placed[name] = wide
    return placed


def _load(network: nn.Module, weights: object, path: Path) -> None:
    """Load weights strictly."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path} contains no state dict")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        difference = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"{path} belongs to another network than the release's: {difference}") from error
