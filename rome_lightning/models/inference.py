"""Models for inference only: the same pictures in less time."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from rome_lightning.models.avatar_model import AvatarModel
from rome_lightning.networks import CompactUNet, TextureEncoder, UNet
from rome_lightning.networks.fast import InferenceNetwork

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def for_inference(model: AvatarModel) -> AvatarModel:
    """A model that draws what another one does, faster, and cannot be trained or saved.

    Pictures differ by rounding. Everything but the rewritten networks is shared with the original, whose
    weights must not change while the copy is in use.

    Args:
        model: trained, on the device on which it will draw.
    """
    return _rewritten(model).eval()


def _rewritten(module: ModuleT) -> ModuleT:
    """A module with inference networks in place of those that have one; the rest is shared."""
    result = copy.copy(module)
    result._parameters, result._buffers = module._parameters.copy(), module._buffers.copy()
    result._modules = {}
    for name, child in module._modules.items():
        if isinstance(child, UNet | CompactUNet | TextureEncoder):
            result._modules[name] = InferenceNetwork(child)
        else:
            result._modules[name] = None if child is None else _rewritten(child)
    return result
