"""Regions of a portrait: hair, face, body, clothes, background."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rome_lightning import assets
from rome_lightning.networks.fast.eight_bit import has_byte_products
from rome_lightning.networks.portrait import RegionNetwork
from rome_lightning.pretrained.tflite_reader import read_tflite
from rome_lightning.tracking.detector import Progress, load_mediapipe, open_task
from rome_lightning.types import Region
from rome_lightning.types.struct import TensorStruct

_NUM_CLASSES = int(Region.OUTSIDE)
_NETWORK_SIZE = 256
# The network's smallest and largest probability of background where it is certain.
_CERTAIN = (0.08, 0.92)

Classify = Callable[[np.ndarray], np.ndarray]
"""From an RGB frame to (6, 256, 256) probabilities."""


@dataclass(frozen=True)
class Segmentation(TensorStruct):
    """Labels and foreground probability of each frame."""

    labels: UInt8[Tensor, "n h w"]
    """Most likely class, see ``Region``."""
    person: Float[Tensor, "n h w"]
    """Probability of any class but background, stretched to [0, 1]; half precision."""

    def __len__(self) -> int:
        return self.labels.shape[0]


class Segmenter:
    """MediaPipe's multiclass selfie segmenter.

    The network sees each frame at 256 x 256, so frames should be portrait crops. Ears count as face skin,
    hands and neck as body skin, glasses and jewellery as other.

    On processors that multiply bytes, the asset runs as ``RegionNetwork``; a model that is named runs in
    MediaPipe.
    """

    def __init__(self, model: Path | None = None) -> None:
        """Set up; nothing is loaded before the first frame.

        Args:
            model: ``selfie_multiclass_256x256.tflite``; by default the asset ``selfie_multiclass``.
        """
        self.model = model

    def segment(self, frames: UInt8[np.ndarray, "n h w 3"], progress: Progress | None = None) -> Segmentation:
        """Label every pixel.

        Args:
            frames: RGB, all of one size, best square.
            progress: called after each frame.
        """
        size = frames[0].shape[:2]
        labels = torch.empty(len(frames), *size, dtype=torch.uint8)
        person = torch.empty(len(frames), *size, dtype=torch.float16)
        with self._opened() as classify:
            for index, frame in enumerate(frames):
                labels[index], person[index] = _upsampled(classify(frame), size)
                if progress is not None:
                    progress("regions", index + 1, len(frames))
        return Segmentation(labels, person)

    def _opened(self) -> AbstractContextManager[Classify]:
        if self.model is None and has_byte_products():
            return nullcontext(_with_bytes)
        mediapipe = load_mediapipe()
        model = self.model or assets.resolve("selfie_multiclass")
        return open_task(lambda: self._create(mediapipe, model))

    def _create(self, mediapipe: Any, model: Path) -> Classify:
        vision = mediapipe.tasks.vision
        options = vision.ImageSegmenterOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(model)),
            output_category_mask=False,
            output_confidence_masks=True,
        )
        return _Classifier(vision.ImageSegmenter.create_from_options(options), mediapipe)


@functools.cache
def _network() -> RegionNetwork:
    return RegionNetwork(read_tflite(assets.resolve("selfie_multiclass")))


def _with_bytes(frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "6 s s"]:
    """Probabilities by ``RegionNetwork``."""
    picture = torch.from_numpy(_small(frame).astype(np.float32) / 127.5 - 1)
    probabilities: np.ndarray = _network()(picture.permute(2, 0, 1)[None])[0].contiguous().numpy()
    return probabilities


def _small(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """At the network's size; MediaPipe's own resize has no antialiasing."""
    size = (_NETWORK_SIZE, _NETWORK_SIZE)
    if frame.shape[:2] != size:
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    return np.ascontiguousarray(frame)


class _Classifier:
    """A MediaPipe segmenter as a function from RGB to (6, 256, 256) probabilities."""

    def __init__(self, task: Any, mediapipe: Any) -> None:
        self.task = task
        self.mediapipe = mediapipe

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        image = self.mediapipe.Image(image_format=self.mediapipe.ImageFormat.SRGB, data=_small(frame))
        masks = self.task.segment(image).confidence_masks
        if len(masks) != _NUM_CLASSES:
            raise ValueError(f"the segmenter must have {_NUM_CLASSES} classes, this model has {len(masks)}")
        return np.stack([mask.numpy_view()[..., 0] for mask in masks])


def _upsampled(
    probabilities: Float[np.ndarray, "6 s s"], size: tuple[int, int]
) -> tuple[UInt8[Tensor, "h w"], Float[Tensor, "h w"]]:
    values = torch.from_numpy(probabilities)
    if values.shape[1:] != size:
        values = F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]
    low, high = _CERTAIN
    person = ((1 - values[Region.BACKGROUND] - low) / (high - low)).clamp(0, 1)
    return _most_likely(values), person.half()


def _most_likely(values: Float[Tensor, "6 h w"]) -> UInt8[Tensor, "h w"]:
    """``argmax(0)``, in a tenth of its time."""
    best, labels = values[0].clone(), torch.zeros(values.shape[1:], dtype=torch.uint8)
    for number, value in enumerate(values[1:], start=1):
        labels.masked_fill_(value > best, number)
        torch.maximum(best, value, out=best)
    return labels
