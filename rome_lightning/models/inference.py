"""Models for inference only: the same images in less time."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from rome_lightning.models.avatar_model import AvatarModel
from rome_lightning.models.deferred_renderer import DeferredRenderer
from rome_lightning.networks import CompactUNet, TextureEncoder, UNet
from rome_lightning.networks.fast import InferenceNetwork

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def for_inference(model: AvatarModel, corrections: bool = True) -> AvatarModel:
    """A faster copy of a model that renders the same images but cannot be trained or saved.

    Images differ by rounding. Everything except the rewritten networks is shared with the original, whose
    weights must not change while the copy is in use.

    Args:
        model: trained, on the device that will render.
        corrections: ``False`` leaves out the image network of a model that carries the photograph: its images
            are nearly the same and take less than half the time. Other models keep theirs.
    """
    fast = _rewritten(model).eval()
    if not corrections and model.config.decoder.carry:
        fast.renderer._modules["network"] = None
    return fast


def _rewritten(module: ModuleT) -> ModuleT:
    """A copy of a module with inference networks where they exist; the rest is shared."""
    result = copy.copy(module)
    result._parameters, result._buffers = module._parameters.copy(), module._buffers.copy()
    result._modules = {}
    for name, child in module._modules.items():
        if isinstance(child, UNet | CompactUNet | TextureEncoder):
            fold = (
                module.config.unshuffle if isinstance(module, DeferredRenderer) and module.config.carry else 1
            )
            result._modules[name] = InferenceNetwork(child, fold)
        else:
            result._modules[name] = None if child is None else _rewritten(child)
    return result
