"""Trivial systems that a method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.evaluation.pairs import ClipSource, PairItem
from rome_lightning.evaluation.systems import Predictions, resized_to
from rome_lightning.geometry import similarity
from rome_lightning.media.image import quantize
from rome_lightning.types import Frames

BASELINES = ("source", "mean", "warp")
_GRID = 48
"""Nodes per side at which the warp is computed."""
_EVERY = 5
"""Stride of the landmarks that carry the warp."""


class Baseline:
    """A trivial system.

    Args:
        kind: ``source`` copies the source frame; ``mean`` shows the mean of all people's frames; ``warp``
            moves the source's pixels with a thin-plate spline through the landmarks, and with the similarity
            that fits them best where another person drives.
        clips: real frames.
        background: grey in [0, 1].
        resolution: side of the answers, pixels; sources may be larger.
    """

    def __init__(self, kind: str, clips: ClipSource, background: float, resolution: int) -> None:
        if kind not in BASELINES:
            raise ValueError(f"unknown baseline {kind!r}; known: {', '.join(BASELINES)}")
        self.kind, self.clips, self.background, self.name = kind, clips, background, kind
        self.resolution = resolution
        self._mean: Tensor | None = None

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"baseline": self.kind, "kind": "baseline"}

    def predict(self, pairs: Sequence[PairItem], source: Frames, driver: Frames) -> Predictions:
        """Answer a batch of pairs that share their source."""
        if self.kind == "mean":
            image, mask = self._mean_face()
            image, mask = (x.expand(len(pairs), -1, -1, -1) for x in (image, mask))
        else:
            image = source.image.expand(len(pairs), -1, -1, -1)
            mask = source.foreground_mask.expand(len(pairs), -1, -1, -1)
        if self.kind == "warp":
            size = image.shape[-1]
            # Pixel centres are integers.
            driven = (driver.landmarks + 0.5) * (size / driver.image.shape[-1]) - 0.5
            flows = [
                warp_grid(source.landmarks[0], landmarks, size, rigid=bool(p.driver_identity))
                for p, landmarks in zip(pairs, driven, strict=True)
            ]
            grid = torch.stack(flows)
            image, mask = (
                F.grid_sample(x, grid, padding_mode="border", align_corners=False) for x in (image, mask)
            )
        image, mask = (resized_to(x, self.resolution) for x in (image, mask))
        shown = torch.lerp(torch.full_like(image, self.background), image, mask)
        return Predictions(quantize(shown), ("",) * len(pairs), mask)

    def _mean_face(self) -> tuple[Tensor, Tensor]:
        if self._mean is None:
            frames = [self.clips.frames(clip.key, [clip.typical]) for clip in self.clips.clips]
            rgba = torch.cat([torch.cat([f.image * f.foreground_mask, f.foreground_mask], 1) for f in frames])
            self._mean = rgba.mean(0, keepdim=True)
        mask = self._mean[:, 3:]
        return self._mean[:, :3] / mask.clamp_min(1e-4), mask


def warp_grid(
    source: Float[Tensor, "l 2"], driver: Float[Tensor, "l 2"], size: int, rigid: bool
) -> Float[Tensor, "s s 2"]:
    """Source position of each pixel of the driven image, as ``grid_sample`` expects it.

    Args:
        source: landmarks, pixels.
        driver: landmarks, pixels.
        size: side of the image, pixels.
        rigid: only rotate, scale and shift, for landmarks of another person.

    Source: thin-plate spline: Bookstein, Principal warps, 1989.
    """
    ours, theirs = source.double().numpy(), driver.double().numpy()
    steps = (np.arange(_GRID) + 0.5) / _GRID * size - 0.5
    nodes = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    if rigid:
        moved = similarity(driver.double(), source.double())(torch.from_numpy(nodes)).numpy()
    else:
        # The border stays fixed, so that shoulders are not torn off.
        edge = np.linspace(0, size - 1, 5)
        border = np.array([(x, y) for x in edge for y in edge if {x, y} & {0.0, float(size - 1)}])
        at = np.concatenate([theirs[::_EVERY], border])
        moved = nodes + RBFInterpolator(at, np.concatenate([ours[::_EVERY], border]) - at, smoothing=0.1)(
            nodes
        )
    coarse = torch.from_numpy((2 * moved + 1) / size - 1).float().T.reshape(1, 2, _GRID, _GRID)
    fine = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return fine[0].permute(1, 2, 0)
