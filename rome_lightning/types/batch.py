"""Tracked frames, and training batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.types.params import HeadParams
from rome_lightning.types.regions import Region
from rome_lightning.types.struct import TensorStruct


@dataclass(frozen=True)
class Frames(TensorStruct):
    """A batch of square, cropped frames with all tracking results."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    foreground_mask: Float[Tensor, "b 1 h w"]
    """Soft matte of the person, [0, 1]."""
    regions: UInt8[Tensor, "b h w"]
    """Label per pixel, see ``Region``."""
    landmarks: Float[Tensor, "b l 2"]
    """MediaPipe landmarks in pixels (x, y) of ``image``; pixel centres at integers."""
    params: HeadParams
    offsets: Float[Tensor, "b v 3"] | None = None
    """Displacements of the head at rest, metres, fitted to the person's outline in advance (see
    ``tracking.outline.fit_outline``); they turn with the skin. ``None`` if none were fitted."""

    def __len__(self) -> int:
        return self.image.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = self.image.shape[-2:]
        return height, width

    def resized(self, image_size: int) -> Frames:
        """The same square frames with another side, anti-aliased when smaller; landmarks follow.

        Args:
            image_size: pixels.
        """
        stored = self.image.shape[-1]
        if stored == image_size:
            return self
        size = (image_size, image_size)
        image, mask = (
            F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
            for x in (self.image, self.foreground_mask)
        )
        regions = F.interpolate(self.regions[:, None], size, mode="nearest-exact")[:, 0]
        # Pixel centres are integers, so the image's corner is at -1/2.
        landmarks = (self.landmarks + 0.5) * (image_size / stored) - 0.5
        return replace(
            self,
            image=image.clamp(0, 1),
            foreground_mask=mask.clamp(0, 1),
            regions=regions,
            landmarks=landmarks,
        )

    def region_mask(self, *regions: Region) -> Float[Tensor, "b 1 h w"]:
        """1 where the pixel belongs to one of ``regions``, else 0."""
        wanted = torch.tensor([int(region) for region in regions], device=self.regions.device)
        return torch.isin(self.regions, wanted.to(self.regions.dtype)).unsqueeze(1).float()


@dataclass(frozen=True)
class AvatarBatch(TensorStruct):
    """Source frames and the frames of the same clip that the avatar has to reproduce.

    ``target`` holds ``num_driving`` consecutive frames per source: target ``i`` belongs to source
    ``i // num_driving``.
    """

    source: Frames
    target: Frames
    clips: tuple[str, ...] = ()
    """Key of the clip of each source."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def num_driving(self) -> int:
        """Targets per source."""
        return len(self.target) // len(self.source)
