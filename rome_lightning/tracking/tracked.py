"""What tracking finds in a video or photograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int16, UInt8
from torch import Tensor

from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.problems import reasons_of
from rome_lightning.types import Frames, HeadParams
from rome_lightning.types.struct import TensorStruct


@dataclass(frozen=True)
class TrackedMotion(TensorStruct):
    """How one person moves in a video, without pictures."""

    params: HeadParams
    """One row per frame, identity repeated. Frames that are not valid hold the nearest valid frame's."""
    problems: Int16[Tensor, " n"]
    """Bits of ``Problem``; 0 for a frame to be used."""
    crop: Crop
    """The square of the frames that the camera of ``params`` refers to."""

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Frames without a problem."""
        return self.problems == 0

    @property
    def reasons(self) -> tuple[str, ...]:
        """The most telling problem of each frame, one of ``REASONS``; empty for a frame to be used."""
        return reasons_of(self.problems)


@dataclass(frozen=True)
class TrackedClip(TrackedMotion):
    """Cropped frames of one person with the tracking results; a photo is a clip of one frame."""

    images: UInt8[Tensor, "n s s 3"]
    """RGB crops; pixels outside the video repeat its border."""
    landmarks: Float[Tensor, "n 478 2"]
    """MediaPipe landmarks, pixels of ``images``; 0 where no face was found."""
    regions: UInt8[Tensor, "n s s"]
    """Label per pixel, see ``Region``; ``OUTSIDE`` beyond the border of the video. Frames whose problem
    shows before masks are drawn, such as no face, have none: background and a matte of 0."""
    matte: Float[Tensor, "n s s"]
    """Opacity of the person, [0, 1], half precision; 0 outside the video."""
    residual: Float[Tensor, " n"]
    """Mean landmark error of the fit divided by the distance of the irises; NaN where not fitted."""
    covered: Float[Tensor, " n"]
    """Share of the face behind hands or objects, eyewear left out, [0, 1]; NaN where no face was found or no
    mask drawn."""

    @property
    def confidence(self) -> Float[Tensor, " n"]:
        """[0, 1]: uncovered share of the face, halved by a fit error of 5 % of the iris distance."""
        error = self.residual / 0.05
        return torch.nan_to_num((1 - self.covered.nan_to_num(nan=0.0)) / (1 + error.square()), nan=0.0)

    def to_frames(self) -> Frames:
        """All frames, valid or not, as the models expect them."""
        return Frames(
            image=self.images.permute(0, 3, 1, 2).float() / 255,
            foreground_mask=self.matte[:, None].float(),
            regions=self.regions,
            landmarks=self.landmarks,
            params=self.params,
        )
