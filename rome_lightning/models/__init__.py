"""Avatar models in plain torch."""

from rome_lightning.models.avatar_model import AvatarCode, AvatarModel, HeadMesh
from rome_lightning.models.basis import LinearBasis
from rome_lightning.models.config import (
    AvatarConfig,
    BasisConfig,
    DeferredRendererConfig,
    DriverConfig,
    OffsetConfig,
    TextureConfig,
)
from rome_lightning.models.inference import for_inference

FullAvatar = AvatarModel
"""The model of the paper's main part: an ``AvatarModel`` whose offsets come from networks."""

__all__ = [
    "AvatarCode",
    "AvatarConfig",
    "AvatarModel",
    "BasisConfig",
    "DeferredRendererConfig",
    "DriverConfig",
    "FullAvatar",
    "HeadMesh",
    "LinearBasis",
    "OffsetConfig",
    "TextureConfig",
    "for_inference",
]
