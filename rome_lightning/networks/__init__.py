"""Networks of the avatar: encoders, decoders and the discriminator."""

from rome_lightning.networks.compact_unet import CompactUNet

__all__ = ["CompactUNet"]
