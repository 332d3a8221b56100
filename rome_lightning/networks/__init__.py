"""Networks of the avatar: encoders, U-Nets and the discriminator.

``TextureEncoder``, ``UNet``, ``OffsetMLP`` and ``PatchDiscriminator`` are the released architectures
with the released key names; ``CompactUNet`` is the small one for a CPU. ``networks.fast`` runs any of
the image networks faster, without gradients.
"""

from rome_lightning.networks.compact_unet import CompactUNet
from rome_lightning.networks.discriminator import PatchDiscriminator
from rome_lightning.networks.harmonic import harmonic_encoding
from rome_lightning.networks.offset_mlp import OffsetMLP
from rome_lightning.networks.texture_encoder import TextureEncoder
from rome_lightning.networks.unet import UNet
from rome_lightning.networks.weight_standardization import (
    WeightStandardizedConv2d,
    fold_weight_standardization,
)

__all__ = [
    "CompactUNet",
    "OffsetMLP",
    "PatchDiscriminator",
    "TextureEncoder",
    "UNet",
    "WeightStandardizedConv2d",
    "fold_weight_standardization",
    "harmonic_encoding",
]
