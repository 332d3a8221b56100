"""Avatar models in plain torch."""

from rome_lightning.models.config import AvatarConfig, DecoderConfig, OffsetConfig, TextureConfig
from rome_lightning.models.full_avatar import AvatarCode, FullAvatar, HeadMesh

__all__ = [
    "AvatarCode",
    "AvatarConfig",
    "DecoderConfig",
    "FullAvatar",
    "HeadMesh",
    "OffsetConfig",
    "TextureConfig",
]
