"""Pixel metrics, on the part of the image given by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.evaluation.protocol import Protocol
from rome_lightning.evaluation.regions import REGION_CHOICES, region_weight
from rome_lightning.evaluation.seen import Perceived, RealImages
from rome_lightning.metrics import (
    dtssd,
    feature_extractor,
    l1,
    lpips_distance,
    mean_of_windows,
    psnr,
    ssim,
    ssim_map,
)
from rome_lightning.types import Frames, Region
from rome_lightning.types.landmarks import FIVE_POINTS_OF_IRISES


class PixelMetrics:
    """Compares predictions with targets, pixel by pixel.

    Args:
        protocol: says which mask and which crop.
        lpips: networks by name of the metric.
        colour: grey of the background.
        device: of the networks.
    """

    def __init__(
        self, protocol: Protocol, lpips: Mapping[str, nn.Module], colour: float, device: torch.device
    ) -> None:
        self.protocol, self.colour, self.device = protocol, colour, device
        self._lpips = lpips
        self._features_of = {base: feature_extractor(network) for base, network in lpips.items()}
        self._targets: dict[str, tuple[tuple[str, ...], list[Tensor]]] = {}
        self._copied: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def forget(self) -> None:
        """Forget the last targets' and the last copied source's features."""
        self._targets.clear()
        self._copied.clear()

    def values(
        self,
        names: Sequence[str],
        image: Float[Tensor, "b 3 h w"],
        target: RealImages,
        seen: Perceived,
        follows: Bool[Tensor, " b"],
    ) -> dict[str, Float[Tensor, " b"]]:
        """Values by name; NaN where the choice of pixels is empty.

        Args:
            names: of metrics on pixels.
            image: predictions, RGB in [0, 1].
            target: the ground truth.
            seen: what networks see in the targets.
            follows: whether the frame of the row before is the one before in the same video.
        """
        return _Batch(self, image, target, seen, follows).values(names)

    def features(
        self, base: str, metric: str, image: Tensor, target: Tensor, keys: tuple[str, ...]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What LPIPS compares; the last targets' are kept, since the floor is compared with them too."""
        features_of = self._features_of[base]
        if metric not in self._targets or self._targets[metric][0] != keys:
            self._targets[metric] = keys, features_of(target.to(self.device))
        # A copied source is one image many times, in one unit after the other.
        if bool((image == image[:1]).all()):
            copied = self._copied.get(metric)
            if copied is None or not torch.equal(copied[0], image[:1]):
                copied = self._copied[metric] = image[:1].clone(), features_of(image[:1].to(self.device))
            return copied[1], self._targets[metric][1]
        return features_of(image.to(self.device)), self._targets[metric][1]

    def distance(
        self, base: str, features: tuple[list[Tensor], list[Tensor]], weight: Tensor | None
    ) -> Float[Tensor, " b"]:
        """LPIPS from what ``features`` returns, averaged with a weight of pixels."""
        weight = None if weight is None else weight.to(self.device)
        return lpips_distance(self._lpips[base], *features, weight).cpu()

    def mask(self, frames: Frames) -> Float[Tensor, "b 1 h w"]:
        """Ground-truth mask of ``/masked`` metrics."""
        if self.protocol.mask == "person":
            return frames.foreground_mask
        return frames.region_mask(Region.HAIR, Region.FACE_SKIN)

    def boxes(self, landmarks: Float[Tensor, "b 478 2"]) -> Float[Tensor, "b 3"]:
        """Centre and side (pixels) of the square around the five points."""
        points = landmarks[:, list(FIVE_POINTS_OF_IRISES)]
        low, high = points.amin(1), points.amax(1)
        side = ((high - low).amax(1) * self.protocol.crop.scale).clamp(1, self.protocol.crop.max_px)
        return torch.cat([(low + high) / 2, side[:, None]], dim=1)


class _Batch:
    """One batch of predictions; what several metrics need is computed once."""

    def __init__(
        self, metrics: PixelMetrics, image: Tensor, target: RealImages, seen: Perceived, follows: Tensor
    ) -> None:
        self.metrics, self.image, self.target, self.seen = metrics, image, target, seen
        self.follows = follows
        self._windows: Tensor | None = None
        self._features: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def values(self, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self._value(*name.split("/")) for name in names}

    def _value(self, base: str, choice: str) -> Float[Tensor, " b"]:
        if choice == "crop":
            return self._cropped(base).where(self.seen.face, torch.nan)
        weight = self._weight(choice)
        if base.startswith("lpips_"):
            return self._perceptual(base, choice, weight)
        if base == "ssim":
            if self._windows is None:
                self._windows = ssim_map(self.image, self.target.image)
            return mean_of_windows(self._windows, weight)
        if base == "dtssd":
            change = dtssd(self.image, self.target.image, weight)
            first = torch.full((1,), torch.nan, device=change.device)
            return torch.cat([first, change]).where(self.follows, torch.nan)
        return _PIXEL_METRICS[base](self.image, self.target.image, weight)

    def _weight(self, choice: str) -> Float[Tensor, "b 1 h w"]:
        """Weight of each pixel; unknown pixels have weight 0."""
        weight = self.target.valid
        if choice == "masked":
            weight = weight * self.metrics.mask(self.target.frames)
        elif choice in REGION_CHOICES:
            part = region_weight(choice, self.target.frames, self.seen.landmarks, self.seen.face)
            weight = weight * part.to(weight)
        return weight.to(self.image)

    def _perceptual(self, base: str, choice: str, weight: Tensor) -> Float[Tensor, " b"]:
        """LPIPS: of whole images, outside the mask or the known pixels covered; or its map over a region."""
        view = "masked" if choice == "masked" else "full"
        metric = f"{base}/{view}"
        if metric not in self._features:
            a, b = self.image, self.target.image
            if view == "masked":
                # Masked pixels show the background in both images.
                grey = torch.full_like(a, self.metrics.colour)
                a, b = (torch.lerp(grey, x, weight) for x in (a, b))
            self._features[metric] = self.metrics.features(base, metric, a, b, self.target.keys)
        region = weight if choice in REGION_CHOICES else None
        value = self.metrics.distance(base, self._features[metric], region)
        return value.where(weight.flatten(1).sum(1).cpu() > 0, torch.nan)

    def _cropped(self, base: str) -> Float[Tensor, " b"]:
        """A metric on the square around the target's face; only meaningful where there is one."""
        boxes = self.metrics.boxes(self.seen.landmarks)
        size = self.metrics.protocol.resolution
        parts = (self.image, self.target.image, self.target.valid.to(self.image))
        image, wanted, weight = (_cut(x, boxes, size) for x in parts)
        if base.startswith("lpips_"):
            metric = f"{base}/crop"
            features = self.metrics.features(base, metric, image, wanted, self.target.keys)
            value = self.metrics.distance(base, features, None)
            return value.where(weight.flatten(1).sum(1).cpu() > 0, torch.nan)
        if base == "ssim":
            return ssim(image, wanted, weight)
        return _PIXEL_METRICS[base](image, wanted, weight)


_PIXEL_METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"psnr": psnr, "l1": l1}


def _cut(
    images: Float[Tensor, "b c h w"], boxes: Float[Tensor, "b 3"], size: int
) -> Float[Tensor, "b c s s"]:
    """Square crops of images, resampled; beyond the border the edge is repeated.

    Args:
        images: any number of channels.
        boxes: centre x, y and side, pixels.
        size: side of the result, pixels.
    """
    height, width = images.shape[-2:]
    steps = (torch.arange(size) + 0.5) / size - 0.5
    x = boxes[:, :1] + boxes[:, 2:] * steps
    y = boxes[:, 1:2] + boxes[:, 2:] * steps
    # Pixel centres are integers; grid_sample counts from the image's corners.
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(images, grid.to(images), padding_mode="border", align_corners=False)
